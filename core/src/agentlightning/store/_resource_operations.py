"""What the store does with resource sets, inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentlightning.errors import Conflict, NotFound
from agentlightning.store._rollout_operations import recalled
from agentlightning.store._rows import ResourceRow
from agentlightning.store._unit import Unit
from agentlightning.types import ResourceState


def publish(unit: Unit, row: ResourceRow, *, key: str | None, digest: bytes) -> ResourceRow:
    """Adds a set under the next version, or finds the one that the same key added before."""
    table = unit.tables.resources
    known = recalled(unit, key, digest)
    if known is not None:
        return get(unit, known[0])
    if row.parent is not None and table.get(row.parent) is None:
        raise NotFound(f"there is no resource set {row.parent!r} to be the parent")
    live = live_set(unit)
    if row.state == ResourceState.LIVE:
        live_id = None if live is None else live.id
        if row.parent != live_id:
            raise Conflict(
                f"published as live on parent {row.parent!r}, but {live_id!r} is live now;"
                " look at what changed, and publish again with that parent"
            )
    newest = table.newest(run_id=None, limit=1)
    version = newest[0].version + 1 if newest else 1
    added = msgspec.structs.replace(row, version=version, id=f"rs-{unit.new_id()}", created_at=unit.now)
    if row.state == ResourceState.LIVE and live is not None:
        table.save(msgspec.structs.replace(live, state=ResourceState.RETIRED.value))
    table.add(added)
    if key is not None:
        unit.tables.keys.remember(key, digest=digest, ids=[added.id], now=unit.now)
    return added


def add_as_was(unit: Unit, row: ResourceRow) -> None:
    """Adds a set of another store under the next version; a live one is retired where another is live."""
    table = unit.tables.resources
    newest = table.newest(run_id=None, limit=1)
    state = row.state
    if state == ResourceState.LIVE and live_set(unit) is not None:
        state = ResourceState.RETIRED.value
    table.add(msgspec.structs.replace(row, version=newest[0].version + 1 if newest else 1, state=state))


def get(unit: Unit, set_id: str) -> ResourceRow:
    """One set."""
    row = unit.tables.resources.get(set_id)
    if row is None:
        raise NotFound(f"there is no resource set {set_id!r} in this store")
    return row


def live_set(unit: Unit) -> ResourceRow | None:
    """The live set."""
    rows = unit.tables.resources.in_state(ResourceState.LIVE.value)
    return rows[-1] if rows else None


def newest(unit: Unit, *, run_id: str | None, limit: int) -> Sequence[ResourceRow]:
    """Newest first."""
    return unit.tables.resources.newest(run_id=run_id, limit=limit)


def move(unit: Unit, set_id: str, state: ResourceState, *, weight: float) -> ResourceRow:
    """Puts a set into a state; what was live makes way for a new live one."""
    row = get(unit, set_id)
    live = live_set(unit)
    if state is ResourceState.LIVE and live is not None and live.id != set_id:
        unit.tables.resources.save(msgspec.structs.replace(live, state=ResourceState.RETIRED.value))
    moved = msgspec.structs.replace(row, state=state.value, weight=weight)
    unit.tables.resources.save(moved)
    return moved
