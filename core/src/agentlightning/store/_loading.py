"""Records of another store on their way into this one: checked and packed at the edge, added by operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

from agentlightning.store import _whole_operations as operations
from agentlightning.store._codec import pack
from agentlightning.store._limits import Limits
from agentlightning.store._packing import packed_span
from agentlightning.store._records import (
    AttemptRecord,
    EventRecord,
    MetricRecord,
    Record,
    ResourceSetRecord,
    RolloutRecord,
    RunRecord,
    SpanRecord,
)
from agentlightning.store._rows import AttemptRow, ResourceRow, RolloutRow, rollout_row
from agentlightning.store._runs import check_point
from agentlightning.store._unit import Unit
from agentlightning.types import Attempt, Failure, ResourceSet, Rollout, RolloutRequest

Step = Callable[[Unit], int]
"""Adds some records; returns how many are new."""


def steps_of(records: Sequence[Record], *, limits: Limits) -> list[Step]:
    """What adds the records, in their order; the spans of one attempt that follow each other go together."""
    steps: list[Step] = []
    for attempt_id, some in groupby(records, key=_attempt_of):
        if attempt_id is None:
            steps += (_step(record) for record in some)
        else:
            steps.append(_spans(attempt_id, [one for one in some if isinstance(one, SpanRecord)], limits))
    return steps


def _attempt_of(record: Record) -> str | None:
    return record.span.attempt_id if isinstance(record, SpanRecord) else None


def _spans(attempt_id: str, records: Sequence[SpanRecord], limits: Limits) -> Step:
    spans = [(one.span.sequence, one.span.late, packed_span(one.span, limits=limits)) for one in records]
    return partial(operations.load_spans, attempt_id=attempt_id, spans=spans)


def _step(record: Record) -> Step:
    match record:
        case RolloutRecord(rollout=rollout):
            return partial(operations.load_rollout, row=_rollout_row(rollout))
        case AttemptRecord(attempt=attempt):
            return partial(operations.load_attempt, row=_attempt_row(attempt))
        case ResourceSetRecord(resource_set=resource_set):
            return partial(operations.load_resources, row=_resource_row(resource_set))
        case RunRecord(run=run):
            pack(run, what=f"run {run.id!r}")
            return partial(operations.load_run, run=run)
        case MetricRecord(run_id=run_id, point=point):
            check_point(point)
            return partial(operations.load_point, run_id=run_id, point=point)
        case EventRecord(run_id=run_id, index=index, event=event):
            packed = pack(event, what=f"event {event.kind!r}")
            return partial(operations.load_event, run_id=run_id, index=index, event=packed)
        case _:
            raise TypeError(f"a span record must be loaded with its attempt, got {type(record).__name__}")


def _rollout_row(rollout: Rollout) -> RolloutRow:
    request = RolloutRequest(
        task=rollout.task,
        id=rollout.id,
        mode=rollout.mode,
        run_id=rollout.run_id,
        group=rollout.group,
        sample=rollout.sample,
        seed=rollout.seed,
        resources=rollout.resources,
        config=rollout.config,
        priority=rollout.priority,
        metadata=rollout.metadata,
    )
    row = rollout_row(request)
    what = f"rollout {rollout.id!r}"
    return RolloutRow(
        number=0,
        id=row.id,
        run_id=row.run_id,
        group=row.group,
        mode=row.mode,
        priority=row.priority,
        pinned=row.pinned,
        created_at=rollout.created_at,
        body=row.body,
        config=row.config,
        status=rollout.status.value,
        attempts=rollout.attempts,
        resources=row.resources,
        finished_at=rollout.finished_at,
        output=None if rollout.output is None else pack(rollout.output, what=what),
        failure=_failure(rollout.failure),
    )


def _attempt_row(attempt: Attempt) -> AttemptRow:
    return AttemptRow(
        number=0,
        id=attempt.id,
        rollout_id=attempt.rollout_id,
        sequence=attempt.sequence,
        worker=attempt.worker,
        token=attempt.token,
        leased_at=attempt.leased_at,
        deadline_at=attempt.deadline_at,
        status=attempt.status.value,
        expires_at=attempt.expires_at,
        due_at=None,
        finished_at=attempt.finished_at,
        output=None if attempt.output is None else pack(attempt.output, what=f"attempt {attempt.id!r}"),
        failure=_failure(attempt.failure),
    )


def _resource_row(found: ResourceSet) -> ResourceRow:
    return ResourceRow(
        version=0,
        id=found.id,
        parent=found.parent,
        run_id=found.run_id,
        step=found.step,
        created_at=found.created_at,
        body=pack(found.resources, what=f"resource set {found.id!r}"),
        state=found.state.value,
        weight=found.weight,
    )


def _failure(failure: Failure | None) -> bytes | None:
    return None if failure is None else pack(failure, what="failure")
