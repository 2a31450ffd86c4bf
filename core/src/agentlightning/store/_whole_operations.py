"""What the store does with all that it has, inside a transaction: count it, trim it, take it in from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentlightning.errors import Conflict, NotFound
from agentlightning.store import _resource_operations, _run_operations, _span_operations, lifecycle
from agentlightning.store._packing import PackedSpan
from agentlightning.store._records import Retention, Statistics
from agentlightning.store._rows import AttemptRow, ResourceRow, RolloutRow
from agentlightning.store._unit import Unit
from agentlightning.types import AttemptStatus, MetricPoint, RolloutStatus, Run

_FOREVER = float("inf")


class Excess(msgspec.Struct, frozen=True):
    """How much is too much, measured once before trimming begins.

    Attributes:
        finished_before: Terminal rollouts that finished earlier go.
        rollouts: So many go at least.
        size_bytes: So many bytes of spans go at least.
    """

    finished_before: float
    rollouts: int
    size_bytes: int


class Removed(msgspec.Struct, frozen=True):
    """What one step of trimming deleted."""

    rollouts: int
    spans: int
    size_bytes: int


def statistics(unit: Unit) -> Statistics:
    """How much there is of everything."""
    counts = unit.tables.rollouts.counts()
    attempts, spans, size_bytes = unit.tables.attempts.totals()
    return Statistics(
        rollouts={status: counts.get(status.value, 0) for status in RolloutStatus},
        attempts=attempts,
        spans=spans,
        span_bytes=size_bytes,
        resource_sets=unit.tables.resources.total(),
        runs=unit.tables.runs.total(),
        oldest_queued_at=unit.tables.rollouts.oldest_queued(),
    )


def excess(unit: Unit, retention: Retention) -> Excess:
    """How much a retention finds too much."""
    counts = unit.tables.rollouts.counts()
    terminal = sum(
        count for status, count in counts.items() if lifecycle.rollout_ended(RolloutStatus(status))
    )
    size_bytes = unit.tables.attempts.totals()[2]
    most, most_bytes, age_s = retention.max_rollouts, retention.max_bytes, retention.max_age_s
    return Excess(
        finished_before=-_FOREVER if age_s is None else unit.now - age_s,
        rollouts=0 if most is None else max(0, terminal - most),
        size_bytes=0 if most_bytes is None else max(0, size_bytes - most_bytes),
    )


def trim(unit: Unit, found: Excess, *, gone: Removed, limit: int) -> Removed:
    """Deletes the next so many rollouts of those that are too many, with all that belongs to them."""
    by_need = found.rollouts > gone.rollouts or found.size_bytes > gone.size_bytes
    rows = unit.tables.rollouts.expendable(
        finished_before=_FOREVER if by_need else found.finished_before,
        keep_runs=_run_operations.unfinished(unit),
        limit=limit,
    )
    chosen: list[RolloutRow] = []
    attempts: list[AttemptRow] = []
    size_bytes = 0
    for row in rows:
        needed = (
            found.rollouts > gone.rollouts + len(chosen) or found.size_bytes > gone.size_bytes + size_bytes
        )
        if not needed and (row.finished_at or 0.0) >= found.finished_before:
            break
        mine = unit.tables.attempts.of(row.id)
        chosen.append(row)
        attempts += mine
        size_bytes += sum(attempt.size_bytes for attempt in mine)
    numbers = [attempt.number for attempt in attempts]
    unit.tables.spans.remove(numbers)
    unit.tables.blobs.release(numbers)
    unit.tables.attempts.remove(numbers)
    unit.tables.rollouts.remove([row.number for row in chosen])
    return Removed(len(chosen), sum(attempt.spans for attempt in attempts), size_bytes)


def load_rollout(unit: Unit, row: RolloutRow) -> bool:
    """Adds a rollout as it was; whether it is new."""
    known = unit.tables.rollouts.get(row.id)
    if known is not None:
        if (known.body, known.created_at) != (row.body, row.created_at):
            raise Conflict(f"rollout id {row.id!r} is taken by another rollout")
        return False
    if lifecycle.rollout_ended(RolloutStatus(row.status)):
        row = msgspec.structs.replace(row, completion=unit.tables.rollouts.last_completion() + 1)
        unit.changes.completed = True
    elif row.status == RolloutStatus.QUEUED:
        unit.changes.queue(row.run_id)
    unit.tables.rollouts.add([row])
    return True


def load_attempt(unit: Unit, row: AttemptRow) -> bool:
    """Adds an attempt as it was; whether it is new."""
    known = unit.tables.attempts.get(row.id)
    if known is not None:
        if (known.rollout_id, known.leased_at) != (row.rollout_id, row.leased_at):
            raise Conflict(f"attempt id {row.id!r} is taken by another attempt")
        return False
    if unit.tables.rollouts.get(row.rollout_id) is None:
        raise NotFound(
            f"attempt {row.id!r} is of rollout {row.rollout_id!r}, which is not here; load it first"
        )
    if not lifecycle.attempt_ended(AttemptStatus(row.status)):
        due_at = lifecycle.due_at(expires_at=row.expires_at, deadline_at=row.deadline_at)
        row = msgspec.structs.replace(row, due_at=due_at)
    unit.tables.attempts.add(row)
    return True


def load_spans(unit: Unit, attempt_id: str, spans: Sequence[tuple[int, bool, PackedSpan]]) -> int:
    """Adds spans as they were; returns how many are new."""
    return _span_operations.load(unit, attempt_id, spans)


def load_resources(unit: Unit, row: ResourceRow) -> bool:
    """Adds a resource set as it was; whether it is new."""
    return _resource_operations.load(unit, row)


def load_run(unit: Unit, run: Run) -> bool:
    """Adds a run as it was; whether it is new."""
    return _run_operations.load(unit, run)


def load_point(unit: Unit, run_id: str, point: MetricPoint) -> bool:
    """Adds a metric point; whether it is new."""
    there = point in _run_operations.points_of(unit, run_id, [point.name])
    if not there:
        _run_operations.log(unit, run_id, points=[point], events=())
    return not there


def load_event(unit: Unit, run_id: str, *, index: int, event: bytes) -> bool:
    """Adds the event of a run at its place; whether it is new.

    Raises:
        ValueError: Events before it are missing.
    """
    there = len(_run_operations.events_of(unit, run_id))
    if index < there:
        return False
    if index > there:
        raise ValueError(
            f"event {index} of run {run_id!r} came, but the run has {there}; load those between first"
        )
    _run_operations.log(unit, run_id, points=(), events=[event])
    return True
