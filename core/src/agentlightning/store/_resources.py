"""`store.resources` over any executor."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

from agentlightning.store import _resource_operations as operations
from agentlightning.store._codec import digest, pack
from agentlightning.store._executor import Executor
from agentlightning.store._rows import ResourceRow, resource_set_of
from agentlightning.types import Resource, ResourceRecord, ResourceSet, ResourceState


class Resources:
    """Immutable, versioned resource sets; see `ResourceStore`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def publish(
        self,
        resources: Mapping[str, Resource | ResourceRecord],
        *,
        parent: str | None = None,
        state: ResourceState = ResourceState.LIVE,
        weight: float = 0.0,
        run_id: str | None = None,
        step: int | None = None,
        idempotency_key: str | None = None,
    ) -> ResourceSet:
        """Adds a set. Publishing as live retires the set that was live."""
        records = {
            name: resource if isinstance(resource, ResourceRecord) else ResourceRecord.of(resource)
            for name, resource in resources.items()
        }
        row = ResourceRow(
            version=0,
            id="",
            parent=parent,
            run_id=run_id,
            step=step,
            created_at=0.0,
            body=pack(records, what="resource set"),
            state=state.value,
            weight=_checked_weight(state, weight),
        )
        asked = pack([row.body, parent, row.state, row.weight, run_id, step], what="resource set")
        return resource_set_of(
            await self._executor.write(
                lambda unit: operations.publish(unit, row, key=idempotency_key, digest=digest(asked))
            )
        )

    async def get(self, set_id: str) -> ResourceSet:
        """One set."""
        return resource_set_of(await self._executor.read(lambda unit: operations.get(unit, set_id)))

    async def live(self) -> ResourceSet | None:
        """The live set, if any."""
        row = await self._executor.read(operations.live_set)
        return None if row is None else resource_set_of(row)

    async def list(self, *, run_id: str | None = None, limit: int = 100) -> builtins.list[ResourceSet]:
        """Newest first."""
        rows = await self._executor.read(lambda unit: operations.newest(unit, run_id=run_id, limit=limit))
        return [resource_set_of(row) for row in rows]

    async def move(self, set_id: str, state: ResourceState, *, weight: float = 0.0) -> ResourceSet:
        """Promotes, rolls back or retires; making one live retires the one that was."""
        share = _checked_weight(state, weight)
        row = await self._executor.write(lambda unit: operations.move(unit, set_id, state, weight=share))
        return resource_set_of(row)


def _checked_weight(state: ResourceState, weight: float) -> float:
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of a canary is its share of leases, 0 to 1, got {weight!r}")
    return float(weight) if state is ResourceState.CANARY else 0.0
