"""What the store does with records of another store, inside a transaction: all are checked before one is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from agentlightning.errors import Conflict, NotFound
from agentlightning.store import (
    _resource_operations,
    _rollout_operations,
    _run_operations,
    _span_operations,
    lifecycle,
)
from agentlightning.store._codec import pack, unpack
from agentlightning.store._packing import PackedSpan
from agentlightning.store._rows import AttemptRow, ResourceRow, RolloutRow, RunRow
from agentlightning.store._unit import Unit
from agentlightning.types import (
    AttemptStatus,
    Failure,
    FailureClass,
    MetricPoint,
    RolloutStatus,
    Run,
    RunEvent,
    Span,
)


class Arriving(msgspec.Struct, frozen=True):
    """A span with its sequence and lateness, and how it will be stored."""

    span: Span
    packed: PackedSpan


class Load:
    """A batch on its way in: each method checks a record against the store and against those before it.

    The methods return how many records are new, and `write` adds them. All raise `Conflict` where something else has
    the id, and `NotFound` where what the record belongs to is neither in the store nor came before.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._writes: list[Callable[[], object]] = []
        self._rollouts: dict[str, RolloutRow] = {}
        self._attempts: dict[str, AttemptRow] = {}
        self._sequences: set[tuple[str, int]] = set()
        self._spans: dict[str, dict[str, Span]] = {}
        self._sets: dict[str, ResourceRow] = {}
        self._runs: dict[str, RunRow] = {}
        self._points: dict[tuple[str, str], dict[int, MetricPoint]] = {}
        self._events: dict[str, list[RunEvent]] = {}

    def write(self) -> None:
        """Adds what is new, in order."""
        for write in self._writes:
            write()

    def rollout(self, row: RolloutRow) -> int:
        """A rollout as it was."""
        known = self._rollouts.get(row.id) or self._unit.tables.rollouts.get(row.id)
        if known is not None:
            _check_same(known.body == row.body and known.created_at == row.created_at, "rollout", row.id)
            return 0
        self._rollouts[row.id] = row
        self._writes.append(partial(_add_rollout, self._unit, row))
        return 1

    def attempt(self, row: AttemptRow) -> int:
        """An attempt as it was.

        Raises:
            ValueError: Its sequence is not one of its rollout's attempts.
        """
        known = self._attempts.get(row.id) or self._unit.tables.attempts.get(row.id)
        if known is not None:
            same = (known.rollout_id, known.sequence, known.leased_at) == (
                row.rollout_id,
                row.sequence,
                row.leased_at,
            )
            _check_same(same, "attempt", row.id)
            return 0
        rollout = self._rollouts.get(row.rollout_id) or self._unit.tables.rollouts.get(row.rollout_id)
        if rollout is None:
            raise NotFound(
                f"attempt {row.id!r} is of rollout {row.rollout_id!r}, which is not here; load it first"
            )
        self._check_sequence(row, rollout)
        self._attempts[row.id] = row
        self._sequences.add((row.rollout_id, row.sequence))
        self._writes.append(partial(_add_attempt, self._unit, row))
        return 1

    def spans(self, attempt_id: str, arriving: Sequence[Arriving]) -> int:
        """Spans of one attempt as they were.

        Raises:
            ValueError: A sequence does not go on where the attempt's spans end.
        """
        row = self._unit.tables.attempts.get(attempt_id)
        owner = self._attempts.get(attempt_id) or row
        if owner is None:
            raise NotFound(f"there is no attempt {attempt_id!r} to load spans for; load it first")
        coming = self._spans.setdefault(attempt_id, {})
        there = coming if row is None else {**self._there(row, arriving), **coming}
        fresh: list[tuple[bool, PackedSpan]] = []
        for one in arriving:
            span = one.span
            if span.rollout_id != owner.rollout_id:
                raise NotFound(
                    f"rollout {span.rollout_id!r} has no attempt {attempt_id!r}; nothing of the batch was added"
                )
            if span.span_id in there:
                same = there[span.span_id] == span
                _check_same(same, f"span of attempt {attempt_id!r}", span.span_id)
                continue
            place = (0 if row is None else row.spans) + len(coming) + 1
            if span.sequence != place:
                raise ValueError(
                    f"span {span.span_id!r} of attempt {attempt_id!r} has sequence {span.sequence}, expected"
                    f" {place}: spans before it are missing; load them first; nothing of the batch was added"
                )
            there[span.span_id] = coming[span.span_id] = span
            fresh.append((span.late, one.packed))
        self._writes.append(partial(_span_operations.add_as_were, self._unit, attempt_id, fresh))
        return len(fresh)

    def resource_set(self, row: ResourceRow) -> int:
        """A resource set as it was."""
        known = self._sets.get(row.id) or self._unit.tables.resources.get(row.id)
        if known is not None:
            same = known.body == row.body and known.created_at == row.created_at
            _check_same(same, "resource set", row.id)
            return 0
        self._sets[row.id] = row
        self._writes.append(partial(_resource_operations.add_as_was, self._unit, row))
        return 1

    def run(self, run: Run) -> int:
        """A run as it was."""
        known = self._run(run.id)
        if known is not None:
            _check_same(unpack(known.body, Run).created_at == run.created_at, "run", run.id)
            return 0
        self._runs[run.id] = _run_operations.as_left(run)
        self._writes.append(partial(self._unit.tables.runs.add, self._runs[run.id]))
        return 1

    def point(self, run_id: str, point: MetricPoint) -> int:
        """A metric point of a run."""
        self._check_run(run_id)
        place = (run_id, point.name)
        if place not in self._points:
            found = self._unit.tables.runs.points(run_id, [point.name])
            self._points[place] = {one.step: one for one in found}
        there = self._points[place]
        if point.step in there:
            _check_same(there[point.step] == point, f"step {point.step} of metric", point.name)
            return 0
        there[point.step] = point
        self._writes.append(partial(self._unit.tables.runs.log, run_id, points=[point], events=()))
        return 1

    def event(self, run_id: str, *, index: int, event: RunEvent) -> int:
        """An event of a run, at its place.

        Raises:
            ValueError: Events before it are missing.
        """
        self._check_run(run_id)
        if run_id not in self._events:
            found = self._unit.tables.runs.events(run_id)
            self._events[run_id] = [unpack(one, RunEvent) for one in found]
        there = self._events[run_id]
        if 0 <= index < len(there):
            _check_same(there[index] == event, f"event of run {run_id!r}", str(index))
            return 0
        if index != len(there):
            raise ValueError(
                f"event {index} of run {run_id!r} came, but the run has {len(there)};"
                " load those between first; nothing of the batch was added"
            )
        there.append(event)
        packed = pack(event, what=f"event {event.kind!r}")
        self._writes.append(partial(self._unit.tables.runs.log, run_id, points=(), events=[packed]))
        return 1

    def _check_sequence(self, row: AttemptRow, rollout: RolloutRow) -> None:
        # attempts to come have the id of their rollout with the next sequence: nothing may be there in their way
        others = {other.sequence for other in self._unit.tables.attempts.of(row.rollout_id)}
        if row.sequence in others or (row.rollout_id, row.sequence) in self._sequences:
            _check_same(False, f"sequence {row.sequence} of rollout", row.rollout_id)
        open_ = not lifecycle.rollout_ended(RolloutStatus(rollout.status))
        odd = open_ and row.id != f"{row.rollout_id}.{row.sequence}"
        if odd or not 1 <= row.sequence <= rollout.attempts:
            raise ValueError(
                f"attempt {row.id!r} has sequence {row.sequence} of {rollout.attempts} that rollout"
                f" {row.rollout_id!r} had; sequences are from 1 on, and an open rollout's attempts are named by"
                " them; nothing of the batch was added"
            )

    def _there(self, row: AttemptRow, arriving: Sequence[Arriving]) -> dict[str, Span]:
        """Those of the spans that the attempt has."""
        known = self._unit.tables.spans.known(row.number, [one.span.span_id for one in arriving])
        places = [one.span.sequence for one in arriving if one.span.span_id in known]
        if not places:
            return {}
        first, last = max(1, min(places)), min(row.spans, max(places))
        found = _span_operations.stored(self._unit, row, first=first, last=last) if first <= last else {}
        for span_id in known:  # elsewhere than the record says
            _check_same(span_id in found, f"span of attempt {row.id!r}", span_id)
        return {span_id: found[span_id] for span_id in known}

    def _run(self, run_id: str) -> RunRow | None:
        return self._runs.get(run_id) or self._unit.tables.runs.get(run_id)

    def _check_run(self, run_id: str) -> None:
        if self._run(run_id) is None:
            raise NotFound(f"there is no run {run_id!r} in this store; load it first")


def _check_same(same: bool, noun: str, name: str) -> None:
    if not same:
        raise Conflict(f"{noun} {name!r} is taken by another; nothing of the batch was added")


def _add_rollout(unit: Unit, row: RolloutRow) -> None:
    if lifecycle.rollout_ended(RolloutStatus(row.status)):
        row = msgspec.structs.replace(row, completion=unit.tables.rollouts.last_completion() + 1)
        unit.changes.completed = True
    elif row.status == RolloutStatus.QUEUED:
        unit.changes.queue(row.run_id)
    unit.tables.rollouts.add([row])


def _add_attempt(unit: Unit, row: AttemptRow) -> None:
    rollout = unit.tables.rollouts.get(row.rollout_id)
    if rollout is None:
        raise NotFound(f"there is no rollout {row.rollout_id!r} in this store")
    newest = rollout.status == RolloutStatus.RUNNING and row.sequence == rollout.attempts
    ended = lifecycle.attempt_ended(AttemptStatus(row.status))
    if newest and not ended:
        due_at = lifecycle.due_at(expires_at=row.expires_at, deadline_at=row.deadline_at)
        row = msgspec.structs.replace(row, due_at=due_at)
    elif not ended:  # it went on while it was exported, and nobody works on it here
        failure = Failure(kind=FailureClass.LOST, message=f"attempt {row.id!r} was open when it was exported")
        row = msgspec.structs.replace(
            row,
            status=AttemptStatus.LOST.value,
            finished_at=unit.now,
            failure=pack(failure, what="failure"),
        )
    unit.tables.attempts.add(row)
    if newest and ended:
        _rollout_operations.conclude(unit, rollout, row)
