"""`store.runs` over any executor."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping, Sequence

from agentlightning.store import _run_operations as operations
from agentlightning.store._codec import digest, pack, unpack
from agentlightning.store._executor import Executor
from agentlightning.store._rollouts import check_ttl
from agentlightning.types import Checkpoint, Json, MetricPoint, Run, RunEvent, RunStatus


class Runs:
    """Jobs, their metrics and events; see `RunStore`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def create(self, run: Run) -> Run:
        """Adds a run."""
        return await self._executor.write(lambda unit: operations.create(unit, run))

    async def get(self, run_id: str) -> Run:
        """One run; `interrupted` if its owner stopped calling `heartbeat`."""
        return await self._executor.read(lambda unit: operations.get(unit, run_id))

    async def list(self, *, limit: int = 100) -> builtins.list[Run]:
        """Newest first."""
        return await self._executor.read(lambda unit: operations.newest(unit, limit))

    async def heartbeat(self, run_id: str, *, owner: str, ttl_s: float = 10.0) -> bool:
        """Keeps a run alive for its owner; true when somebody asked it to stop."""
        check_ttl(ttl_s)
        return await self._executor.write(
            lambda unit: operations.heartbeat(unit, run_id, owner=owner, ttl_s=ttl_s)
        )

    async def update(
        self,
        run_id: str,
        *,
        status: RunStatus | None = None,
        summary: Mapping[str, Json] | None = None,
        checkpoint: Checkpoint | None = None,
        error: str | None = None,
        owner: str | None = None,
        ttl_s: float = 10.0,
    ) -> Run:
        """Changes what is given; `summary` is merged by key. A status that is not running frees the owner."""
        check_ttl(ttl_s)
        pack(summary, what=f"summary of run {run_id!r}")
        change = operations.RunChange(status, summary, checkpoint, error, owner, ttl_s)
        return await self._executor.write(lambda unit: operations.update(unit, run_id, change))

    async def request_stop(self, run_id: str) -> None:
        """Asks the owner to stop; it learns of it from its next heartbeat."""
        await self._executor.write(lambda unit: operations.request_stop(unit, run_id))

    async def log(
        self,
        run_id: str,
        *,
        points: Sequence[MetricPoint] = (),
        events: Sequence[RunEvent] = (),
        idempotency_key: str | None = None,
    ) -> None:
        """Adds metric points and events. A point with the name and step of an earlier one replaces it."""
        for point in points:
            check_point(point)
        packed = [pack(event, what=f"event {event.kind!r}") for event in events]
        fingerprint = b"" if idempotency_key is None else digest(pack([run_id, points, events], what="log"))
        await self._executor.write(
            lambda unit: operations.log(
                unit, run_id, points=points, events=packed, key=idempotency_key, digest=fingerprint
            )
        )

    async def metrics(self, run_id: str, *, names: Sequence[str] | None = None) -> builtins.list[MetricPoint]:
        """Metric points by name, then by step."""
        return await self._executor.read(lambda unit: operations.points_of(unit, run_id, names))

    async def events(self, run_id: str) -> builtins.list[RunEvent]:
        """Events in order."""
        rows = await self._executor.read(lambda unit: operations.events_of(unit, run_id))
        return [unpack(row, RunEvent) for row in rows]


def check_point(point: MetricPoint) -> None:
    """Lets a metric point pass that can be stored.

    Raises:
        ValueError: Its value is not finite, or its step wider than 64 bits.
    """
    if not math.isfinite(point.value):
        raise ValueError(
            f"metric {point.name!r} at step {point.step} is {point.value!r}; leave it out, log an event"
        )
    if not -(2**63) <= point.step < 2**63:
        raise ValueError(f"metric {point.name!r} has step {point.step!r}; a step has 64 bits")
