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
from agentlightning.store._loading import Step, steps_of
from agentlightning.store._notifier import Notifier
from agentlightning.store._protocols import ResourceStore, RolloutStore, RunStore, SpanStore
from agentlightning.store._records import Loaded, Record, Retention, Statistics, Trimmed
from agentlightning.store._resources import Resources
from agentlightning.store._rollouts import Rollouts, check_batch
from agentlightning.store._runs import Runs
from agentlightning.store._spans import Spans
from agentlightning.store._unit import Unit
from agentlightning.store._whole_operations import Removed

_TRIMMED_AT_ONCE: Final = 200  # rollouts: others wait for a transaction of that length only


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
        found = await self._executor.read(lambda unit: operations.excess(unit, retention))
        gone = Removed(0, 0, 0)
        while True:
            part = await self._executor.write(
                partial(operations.trim, found=found, gone=gone, limit=_TRIMMED_AT_ONCE)
            )
            gone = Removed(
                gone.rollouts + part.rollouts, gone.spans + part.spans, gone.size_bytes + part.size_bytes
            )
            if part.rollouts < _TRIMMED_AT_ONCE:
                return Trimmed(rollouts=gone.rollouts, spans=gone.spans, size_bytes=gone.size_bytes)

    async def load(self, records: Sequence[Record]) -> Loaded:
        """Adds records as another store exported them; what is there already is skipped."""
        check_batch(records, most=self._limits.batch)
        steps = steps_of(records, limits=self._limits)
        added = await self._executor.write(lambda unit: _load(unit, steps))
        return Loaded(added=added, skipped=len(records) - added)

    async def __aenter__(self) -> Self:
        """Opens or creates it."""
        await asyncio.to_thread(self._executor.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Closes it; everything acknowledged stays."""
        await asyncio.to_thread(self._executor.stop)


def _load(unit: Unit, steps: Sequence[Step]) -> int:
    return sum(step(unit) for step in steps)


def _check_retention(retention: Retention) -> None:
    if retention == Retention():
        raise ValueError("a retention that limits nothing trims nothing; give an age, a count or a size")
    for name in ("max_age_s", "max_rollouts", "max_bytes"):
        value = getattr(retention, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a number from 0 on, got {value!r}")
