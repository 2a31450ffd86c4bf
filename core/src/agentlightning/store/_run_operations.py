"""What the store does with runs, inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agentlightning.errors import Conflict, IllegalTransition, LeaseLost, NotFound
from agentlightning.store._codec import pack, unpack
from agentlightning.store._rollout_operations import recalled
from agentlightning.store._rows import RunRow
from agentlightning.store._unit import Unit
from agentlightning.types import Checkpoint, Json, MetricPoint, Run, RunStatus

_FINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED})
_FIRST_LEASE_S = 10.0  # until the owner's first heartbeat
_ALL = 2**62


class RunChange(msgspec.Struct, frozen=True):
    """What `update` was asked to change."""

    status: RunStatus | None
    summary: Mapping[str, Json] | None
    checkpoint: Checkpoint | None
    error: str | None
    owner: str | None
    ttl_s: float


def create(unit: Unit, run: Run) -> Run:
    """Adds a run, unless it is there already just as it is."""
    known = unit.tables.runs.get(run.id)
    if known is not None:
        there = unpack(known.body, Run)
        if _as_created(there) != _as_created(run):
            raise Conflict(f"run id {run.id!r} is taken; ids are unique in the store")
        return there
    if run.owner is not None and run.expires_at is None:
        run = msgspec.structs.replace(run, expires_at=unit.now + _FIRST_LEASE_S)
    unit.tables.runs.add(RunRow(0, run.id, _pack(run)))
    return run


def as_left(run: Run) -> RunRow:
    """The row of a run that another store kept: nobody drives it here."""
    status = RunStatus.INTERRUPTED if run.status is RunStatus.RUNNING else run.status
    left = msgspec.structs.replace(run, status=status, owner=None, expires_at=None)
    return RunRow(0, run.id, _pack(left))


def unfinished(unit: Unit) -> list[str]:
    """Ids of the runs that are not over, and may need what they did."""
    rows = unit.tables.runs.newest(_ALL)
    return [row.id for row in rows if unpack(row.body, Run).status not in _FINAL]


def get(unit: Unit, run_id: str) -> Run:
    """One run, as it is judged now."""
    return _judged(unit, _row(unit, run_id))


def newest(unit: Unit, limit: int) -> list[Run]:
    """Runs as they are judged now, newest first."""
    return [_judged(unit, row) for row in unit.tables.runs.newest(limit)]


def heartbeat(unit: Unit, run_id: str, *, owner: str, ttl_s: float) -> bool:
    """Keeps a run alive; whether its owner should stop."""
    row = _row(unit, run_id)
    run = unpack(row.body, Run)
    if run.owner not in {None, owner}:
        raise LeaseLost(f"run {run_id!r} is driven by {run.owner!r}, not by {owner!r}; stop driving it")
    if run.status is not RunStatus.RUNNING:
        return True
    alive = msgspec.structs.replace(run, owner=owner, expires_at=unit.now + ttl_s)
    unit.tables.runs.save(msgspec.structs.replace(row, body=_pack(alive)))
    return row.stop


def update(unit: Unit, run_id: str, change: RunChange) -> Run:
    """Changes a run."""
    row = _row(unit, run_id)
    run = unpack(row.body, Run)
    if run.status in _FINAL:
        if _is_repeated(run, change):
            return run
        raise IllegalTransition(f"run {run_id!r} is {run.status.value}, which is final; start a new run")
    stop = row.stop
    if change.owner is not None:
        driven = _driven(unit, run)
        if driven and run.owner != change.owner:
            raise LeaseLost(
                f"run {run_id!r} is driven by {run.owner!r}; stop that process before taking it over"
            )
        stop = stop and driven  # a request to stop was meant for whoever drove it before
    changed = _changed(unit, run, change)
    unit.tables.runs.save(RunRow(row.number, row.id, _pack(changed), stop))
    return changed


def request_stop(unit: Unit, run_id: str) -> None:
    """Leaves the owner word to stop."""
    unit.tables.runs.save(msgspec.structs.replace(_row(unit, run_id), stop=True))


def log(
    unit: Unit,
    run_id: str,
    *,
    points: Sequence[MetricPoint],
    events: Sequence[bytes],
    key: str | None = None,
    digest: bytes = b"",
) -> None:
    """Adds points and packed events, unless the same key added them before."""
    _row(unit, run_id)
    if recalled(unit, key, digest) is not None:
        return
    unit.tables.runs.log(run_id, points=points, events=events)
    if key is not None:
        unit.tables.keys.remember(key, digest=digest, ids=(), now=unit.now)


def points_of(unit: Unit, run_id: str, names: Sequence[str] | None) -> list[MetricPoint]:
    """Metric points."""
    _row(unit, run_id)
    return unit.tables.runs.points(run_id, names)


def events_of(unit: Unit, run_id: str) -> list[bytes]:
    """Packed events."""
    _row(unit, run_id)
    return unit.tables.runs.events(run_id)


def _changed(unit: Unit, run: Run, change: RunChange) -> Run:
    status = change.status or run.status
    running = status is RunStatus.RUNNING
    owner, expires_at = (run.owner, run.expires_at) if running else (None, None)
    if running and change.owner is not None:
        owner, expires_at = change.owner, unit.now + change.ttl_s
    resumed = running and change.status is not None
    return msgspec.structs.replace(
        run,
        status=status,
        summary={**run.summary, **(change.summary or {})},
        checkpoint=change.checkpoint or run.checkpoint,
        error=change.error if change.error is not None or resumed else run.error,
        owner=owner,
        expires_at=expires_at,
        updated_at=unit.now,
        finished_at=None if running else unit.now,
    )


def _is_repeated(run: Run, change: RunChange) -> bool:
    """Whether a change ends a run again, just as it ended."""
    summary = unpack(pack(change.summary or {}, what="summary"), dict[str, Json])
    ended = (
        change.status,
        run.summary | summary,
        change.checkpoint or run.checkpoint,
        run.error if change.error is None else change.error,
    )
    return ended == (run.status, run.summary, run.checkpoint, run.error)


def _judged(unit: Unit, row: RunRow) -> Run:
    run = unpack(row.body, Run)
    if run.status is RunStatus.RUNNING and run.owner is not None and not _driven(unit, run):
        return msgspec.structs.replace(run, status=RunStatus.INTERRUPTED)
    return run


def _driven(unit: Unit, run: Run) -> bool:
    alive = run.expires_at is not None and unit.now < run.expires_at
    return run.status is RunStatus.RUNNING and run.owner is not None and alive


def _row(unit: Unit, run_id: str) -> RunRow:
    row = unit.tables.runs.get(run_id)
    if row is None:
        raise NotFound(f"there is no run {run_id!r} in this store; `agl runs` lists those there are")
    return row


def _as_created(run: Run) -> Run:
    return msgspec.structs.replace(run, expires_at=None)


def _pack(run: Run) -> bytes:
    return pack(run, what=f"run {run.id!r}")
