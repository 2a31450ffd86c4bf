"""What the store does with all that it has, inside a transaction: count it, and trim it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning.store import _run_operations, lifecycle
from agentlightning.store._records import Retention, Statistics, Trimmed
from agentlightning.store._rows import RolloutRow
from agentlightning.store._unit import Unit
from agentlightning.types import RolloutStatus

_WINDOW: Final = 1000  # rows looked at in one go


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


def aged(unit: Unit, *, age_s: float, limit: int) -> list[str]:
    """Ids of the next rollouts that finished longer ago, in order of completion."""
    rows = unit.tables.rollouts.expendable(
        finished_before=unit.now - age_s, keep_runs=_run_operations.unfinished(unit), limit=limit
    )
    return [row.id for row in rows]


def surplus(unit: Unit, retention: Retention) -> list[str]:
    """Ids of the oldest rollouts that have to go for the count and the size to be kept, in order of completion.

    They are chosen on one snapshot, so that two who trim at once choose the same.
    """
    table = unit.tables.rollouts
    terminal = sum(
        count for status, count in table.counts().items() if lifecycle.rollout_ended(RolloutStatus(status))
    )
    rollouts = 0 if retention.max_rollouts is None else terminal - retention.max_rollouts
    size_bytes = 0 if retention.max_bytes is None else unit.tables.attempts.totals()[2] - retention.max_bytes
    kept = set(_run_operations.unfinished(unit))
    last = table.last_completion()
    after = 0
    chosen: list[str] = []
    while (rollouts > 0 or size_bytes > 0) and after < last:
        rows = table.completed(after=after, run_id=None, limit=_WINDOW)
        if not rows:
            break
        for row in rows:
            after = row.completion or last
            if row.run_id in kept or after == last:  # the last one keeps the count of completions
                continue
            if rollouts <= 0 and size_bytes <= 0:
                break
            chosen.append(row.id)
            rollouts -= 1
            if size_bytes > 0:
                size_bytes -= sum(attempt.size_bytes for attempt in unit.tables.attempts.of(row.id))
    return chosen


def remove(unit: Unit, rollout_ids: Sequence[str]) -> Trimmed:
    """Deletes those of the rollouts that are still there and expendable, with all that belongs to them."""
    kept = set(_run_operations.unfinished(unit))
    rows = [row for row in unit.tables.rollouts.many(rollout_ids).values() if _is_expendable(row, kept)]
    attempts = [attempt for row in rows for attempt in unit.tables.attempts.of(row.id)]
    numbers = [attempt.number for attempt in attempts]
    unit.tables.spans.remove(numbers)
    unit.tables.blobs.release(numbers)
    unit.tables.attempts.remove(numbers)
    unit.tables.rollouts.remove([row.number for row in rows])
    return Trimmed(
        rollouts=len(rows),
        spans=sum(attempt.spans for attempt in attempts),
        size_bytes=sum(attempt.size_bytes for attempt in attempts),
    )


def _is_expendable(row: RolloutRow, kept_runs: set[str]) -> bool:
    return row.completion is not None and row.run_id not in kept_runs
