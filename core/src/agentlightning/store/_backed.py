"""What every backend over an executor shares: the four parts, opened and closed together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from typing import Final, Self

from agentlightning.store import _whole_operations as operations
from agentlightning.store._executor import Executor
from agentlightning.store._limits import Limits
from agentlightning.store._loading import load_all, steps_of
from agentlightning.store._notifier import Notifier
from agentlightning.store._protocols import ResourceStore, RolloutStore, RunStore, SpanStore
from agentlightning.store._records import Loaded, Record, Retention, Statistics, Trimmed
from agentlightning.store._resources import Resources
from agentlightning.store._rollouts import Rollouts, check_batch
from agentlightning.store._runs import Runs
from agentlightning.store._spans import Spans

_CHOSEN_AT_ONCE: Final = 5000  # rollouts
_REMOVED_AT_ONCE: Final = 200  # rollouts: others wait for a transaction of that length only


class BackedStore:
    """A store over an executor. It may be entered several times; the last exit closes it."""

    def __init__(
        self, url: str, *, executor: Executor, notifier: Notifier, limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        self.url = url
        self.rollouts: RolloutStore = Rollouts(executor, notifier, limits=limits)
        self.spans: SpanStore = Spans(executor, limits=limits)
        self.resources: ResourceStore = Resources(executor)
        self.runs: RunStore = Runs(executor)
        self._executor = executor
        self._limits = limits

    async def sweep(self) -> int:
        """Expires overdue leases and attempts now; returns how many."""
        return await self._executor.write(lambda unit: unit.swept)

    async def statistics(self) -> Statistics:
        """How much there is of everything."""
        return await self._executor.read(operations.statistics)

    async def trim(self, retention: Retention) -> Trimmed:
        """Deletes terminal rollouts, with all that belongs to them, as far as the retention says; oldest first."""
        _check_retention(retention)
        trimmed: list[Trimmed] = []
        if retention.max_age_s is not None:
            choose = partial(operations.aged, age_s=retention.max_age_s, limit=_CHOSEN_AT_ONCE)
            while chosen := await self._executor.read(choose):
                parts = await self._remove(chosen)
                trimmed += parts
                if not any(part.rollouts for part in parts):
                    break  # somebody else deletes the same
        surplus = await self._executor.read(lambda unit: operations.surplus(unit, retention))
        trimmed += await self._remove(surplus)
        return Trimmed(
            rollouts=sum(part.rollouts for part in trimmed),
            spans=sum(part.spans for part in trimmed),
            size_bytes=sum(part.size_bytes for part in trimmed),
        )

    async def load(self, records: Sequence[Record]) -> Loaded:
        """Adds records as another store exported them; what is there already is skipped."""
        check_batch(records, most=self._limits.batch)
        steps = steps_of(records, limits=self._limits)
        added = await self._executor.write(partial(load_all, steps=steps))
        return Loaded(added=added, skipped=len(records) - added)

    async def __aenter__(self) -> Self:
        """Opens or creates it."""
        await asyncio.to_thread(self._executor.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Closes it; everything acknowledged stays."""
        await asyncio.to_thread(self._executor.stop)

    async def _remove(self, rollout_ids: Sequence[str]) -> list[Trimmed]:
        starts = range(0, len(rollout_ids), _REMOVED_AT_ONCE)
        parts = [rollout_ids[start : start + _REMOVED_AT_ONCE] for start in starts]
        return [await self._executor.write(partial(operations.remove, rollout_ids=part)) for part in parts]


def _check_retention(retention: Retention) -> None:
    if retention == Retention():
        raise ValueError("a retention that limits nothing trims nothing; give an age, a count or a size")
    for name in ("max_age_s", "max_rollouts", "max_bytes"):
        value = getattr(retention, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a number from 0 on, got {value!r}")
