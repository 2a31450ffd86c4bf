"""Records of another store on their way into this one: checked and packed at the edge, added by operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TypeAlias

import msgspec

from agentlightning.store._codec import pack
from agentlightning.store._limits import Limits
from agentlightning.store._load_operations import Arriving, Load
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
from agentlightning.store._rollouts import check_request
from agentlightning.store._rows import AttemptRow, ResourceRow, RolloutRow, rollout_row
from agentlightning.store._runs import check_point
from agentlightning.store._unit import Unit
from agentlightning.types import Attempt, Failure, ResourceSet, Rollout, RolloutRequest, Span

Step: TypeAlias = Callable[[Load], int]
"""Checks some records and has them added; returns how many are new."""


def steps_of(records: Sequence[Record], *, limits: Limits) -> list[Step]:
    """What adds the records, in their order; the spans of one attempt that follow each other go together."""
    steps: list[Step] = []
    for attempt_id, some in groupby(records, key=_attempt_of):
        if attempt_id is None:
            steps += (_step(record) for record in some)
        else:
            spans = [_arriving(one.span, limits) for one in some if isinstance(one, SpanRecord)]
            steps.append(partial(Load.spans, attempt_id=attempt_id, arriving=spans))
    return steps


def load_all(unit: Unit, steps: Sequence[Step]) -> int:
    """Takes the steps and adds what is new; returns how many records that are."""
    load = Load(unit)
    added = sum(step(load) for step in steps)
    load.write()
    return added


def _attempt_of(record: Record) -> str | None:
    return record.span.attempt_id if isinstance(record, SpanRecord) else None


def _arriving(span: Span, limits: Limits) -> Arriving:
    # the place is the row's: stored as it came, so that it has the same bytes here as there
    packed = packed_span(msgspec.structs.replace(span, sequence=0, late=False), limits=limits)
    return Arriving(span, packed)


def _step(record: Record) -> Step:
    match record:
        case RolloutRecord(rollout=rollout):
            return partial(Load.rollout, row=_rollout_row(rollout))
        case AttemptRecord(attempt=attempt):
            return partial(Load.attempt, row=_attempt_row(attempt))
        case ResourceSetRecord(resource_set=resource_set):
            return partial(Load.resource_set, row=_resource_row(resource_set))
        case RunRecord(run=run):
            pack(run, what=f"run {run.id!r}")
            return partial(Load.run, run=run)
        case MetricRecord(run_id=run_id, point=point):
            check_point(point)
            return partial(Load.point, run_id=run_id, point=point)
        case EventRecord(run_id=run_id, index=index, event=event):
            pack(event, what=f"event {event.kind!r}")
            return partial(Load.event, run_id=run_id, index=index, event=event)
        case _:
            raise TypeError(f"a store loads records, got {type(record).__name__}")


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
    check_request(request)
    row = rollout_row(request)
    what = f"rollout {rollout.id!r}"
    pack(rollout, what=what)  # its numbers, too
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
    pack(attempt, what=f"attempt {attempt.id!r}")
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
    pack(found, what=f"resource set {found.id!r}")
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
