"""Spans sorted by rollout and attempt in a temporary file, however they are mixed in traces."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from agentlightning import semconv
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Failure,
    FailureClass,
    Json,
    Mode,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Span,
    SpanSource,
)

_WIDEST: Final = 2**63 - 1
_SCHEMA: Final = """
CREATE TABLE spans (
    number INTEGER PRIMARY KEY,
    rollout TEXT NOT NULL,
    attempt TEXT NOT NULL,
    span TEXT NOT NULL,
    parent TEXT,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    telling INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX by_span ON spans (rollout, attempt, span);
"""
_WORKER: Final = "import"


class _Times(NamedTuple):
    """A rollout or an attempt, with its first start and last end in seconds since the epoch."""

    id: str
    start: float
    end: float


class TraceSpool:
    """A temporary database, gone when it is closed. A span that comes twice counts once."""

    def __init__(self) -> None:
        # without a name it is a file of its own; threads take turns, as the pages of an import do
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Deletes it."""
        self._database.close()

    def add(self, spans: Sequence[Span]) -> None:
        """Adds spans of any attempts."""
        rows = [
            (
                span.rollout_id,
                span.attempt_id,
                span.span_id,
                span.parent_id,
                max(-_WIDEST, min(span.start_ns, _WIDEST)),
                max(-_WIDEST, min(span.end_ns, _WIDEST)),
                _telling(span),
                msgspec.msgpack.encode(span),
            )
            for span in spans
        ]
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR IGNORE INTO spans (rollout, attempt, span, parent, start_ns, end_ns, telling, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._database.execute("COMMIT")

    def rollouts(self) -> Iterator[Rollout]:
        """One per rollout that is named, or trace, in order of first appearance: all of them succeeded."""
        for found in self._rollouts():
            task = self._task(found.id)
            yield Rollout(
                id=found.id,
                task=task,
                mode=Mode.TRAIN,
                run_id=None,
                group=_group(task),
                sample=0,
                seed=None,
                resources=None,
                config=RolloutConfig(),
                priority=0,
                metadata={"imported": "traces"},
                status=RolloutStatus.SUCCEEDED,
                attempts=len(self._attempts(found.id)),
                created_at=found.start,
                finished_at=found.end,
            )

    def attempts(self) -> Iterator[Attempt]:
        """The attempts of the rollouts, in order: the last one succeeded, those before it did not."""
        for rollout in self._rollouts():
            found = self._attempts(rollout.id)
            for sequence, one in enumerate(found, start=1):
                last = sequence == len(found)
                yield Attempt(
                    id=one.id,
                    rollout_id=rollout.id,
                    sequence=sequence,
                    worker=_WORKER,
                    token=sequence,
                    status=AttemptStatus.SUCCEEDED if last else AttemptStatus.FAILED,
                    leased_at=one.start,
                    expires_at=one.end,
                    finished_at=one.end,
                    failure=None if last else _TRIED_AGAIN,
                )

    def spans(self) -> Iterator[tuple[Span, int]]:
        """The spans of the attempts, in order of appearance, with their sizes in bytes."""
        for rollout in self._rollouts():
            for attempt in self._attempts(rollout.id):
                rows = self._database.execute(
                    "SELECT body FROM spans WHERE rollout = ? AND attempt = ? ORDER BY number",
                    (rollout.id, attempt.id),
                )
                for sequence, (body,) in enumerate(rows, start=1):
                    span = self._aimed(msgspec.msgpack.decode(body, type=Span))
                    yield msgspec.structs.replace(span, sequence=sequence), len(body)

    def _aimed(self, span: Span) -> Span:
        """The span; of a foreign evaluation of what is outermost in its trace, as a reward of the whole attempt."""
        target = span.attributes.get(semconv.REWARD_TARGET)
        if span.operation != semconv.OPERATION_REWARD or span.source is not SpanSource.OTLP:
            return span
        outermost = self._database.execute(
            "SELECT 1 FROM spans AS own WHERE rollout = :rollout AND attempt = :attempt AND span = :target"
            " AND NOT EXISTS (SELECT 1 FROM spans WHERE rollout = :rollout AND attempt = :attempt"
            " AND span = own.parent)",
            {"rollout": span.rollout_id, "attempt": span.attempt_id, "target": target},
        ).fetchone()
        if outermost is None:
            return span
        rest = {name: value for name, value in span.attributes.items() if name != semconv.REWARD_TARGET}
        return msgspec.structs.replace(span, attributes=rest)

    def _rollouts(self) -> Iterator[_Times]:
        rows = self._database.execute(
            "SELECT rollout, MIN(start_ns), MAX(end_ns) FROM spans GROUP BY rollout ORDER BY MIN(number)"
        )
        return (_Times(name, start / 1e9, end / 1e9) for name, start, end in rows)

    def _attempts(self, rollout_id: str) -> list[_Times]:
        rows = self._database.execute(
            "SELECT attempt, MIN(start_ns), MAX(end_ns) FROM spans WHERE rollout = ?"
            " GROUP BY attempt ORDER BY MIN(start_ns), MIN(number)",
            (rollout_id,),
        )
        return [_Times(name, start / 1e9, end / 1e9) for name, start, end in rows]

    def _task(self, rollout_id: str) -> Json:
        """What the rollout was about: the task that a span says, else the messages of the first call."""
        row = self._database.execute(
            "SELECT body FROM spans WHERE rollout = ? AND telling > 0"
            " ORDER BY telling DESC, start_ns, number LIMIT 1",
            (rollout_id,),
        ).fetchone()
        if row is None:
            return None
        attributes = msgspec.msgpack.decode(row[0], type=Span).attributes
        return attributes.get(semconv.TASK, attributes.get(semconv.INPUT_MESSAGES))


_TRIED_AGAIN: Final = Failure(
    kind=FailureClass.INFRASTRUCTURE, message="a later attempt followed; traces do not say why"
)


def _group(task: Json) -> str | None:
    """Traces of one task are compared with each other."""
    if task is None:
        return None
    return f"task-{sha256(msgspec.json.encode(task, order='deterministic')).hexdigest()[:16]}"


def _telling(span: Span) -> int:
    """How well a span says what its rollout was about; 0 is not at all."""
    if semconv.TASK in span.attributes:
        return 2
    return 1 if semconv.INPUT_MESSAGES in span.attributes else 0
