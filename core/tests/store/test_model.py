"""Random operations on each backend and on a model of it: they never differ."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentlightning.errors import LeaseLost
from agentlightning.store import MemoryStore, SpanQuery, SqliteStore, Store
from agentlightning.testing import ManualClock
from agentlightning.types import (
    Failure,
    FailureClass,
    RolloutConfig,
    RolloutRequest,
    Span,
    SpanSource,
)

ENDINGS = {None: "succeeded", "timed_out": "timed_out", "lost": "lost", "cancelled": "cancelled"}
KINDS = st.none() | st.sampled_from([kind.value for kind in FailureClass])
PICK = st.integers(0, 10**6)


@dataclass
class ModelAttempt:
    rollout: ModelRollout
    number: int
    token: int
    expires_at: float
    deadline_at: float
    status: str = "leased"
    finished: tuple[str | None] | None = None  # how a worker finished it, if one did
    spans: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.status in {"leased", "running"}

    @property
    def due_at(self) -> float:
        return min(self.expires_at, self.deadline_at)


@dataclass
class ModelRollout:
    number: int
    priority: int
    config: RolloutConfig
    status: str = "queued"
    attempts: list[ModelAttempt] = field(default_factory=list)


class Model:
    """What a store should do, in the fewest words."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rollouts: list[ModelRollout] = []
        self.attempts: list[ModelAttempt] = []
        self.completed: list[int] = []

    def sweep(self) -> None:
        overdue = [attempt for attempt in self.attempts if attempt.open and attempt.due_at <= self.now]
        for attempt in sorted(overdue, key=lambda each: (each.due_at, each.number)):
            self.end(attempt, "timed_out" if attempt.deadline_at <= attempt.expires_at else "lost")

    def end(self, attempt: ModelAttempt, kind: str | None) -> None:
        rollout = attempt.rollout
        attempt.status = ENDINGS.get(kind, "failed")
        if kind in rollout.config.retry_on and len(rollout.attempts) < rollout.config.max_attempts:
            rollout.status = "queued"
        else:
            self.complete(rollout, kind if kind == "cancelled" else "failed" if kind else "succeeded")

    def complete(self, rollout: ModelRollout, status: str) -> None:
        rollout.status = status
        self.completed.append(rollout.number)

    def lease(self, limit: int, ttl_s: float) -> list[ModelAttempt]:
        queue = [rollout for rollout in self.rollouts if rollout.status == "queued"]
        queue.sort(key=lambda rollout: (-rollout.priority, rollout.number))
        for rollout in queue[:limit]:
            deadline_at = self.now + (rollout.config.timeout_s or float("inf"))
            token = len(rollout.attempts) + 1
            attempt = ModelAttempt(rollout, len(self.attempts), token, self.now + ttl_s, deadline_at)
            rollout.status = "running"
            rollout.attempts.append(attempt)
            self.attempts.append(attempt)
        return [rollout.attempts[-1] for rollout in queue[:limit]]

    def cancel(self, rollout: ModelRollout) -> None:
        if rollout.status in {"queued", "running"}:
            if rollout.attempts and rollout.attempts[-1].open:
                rollout.attempts[-1].status = "cancelled"
            self.complete(rollout, "cancelled")

    def append(self, attempt: ModelAttempt, spans: list[int], token: int) -> None:
        late = not attempt.open or token < attempt.token
        for number in spans:
            if number not in [known for known, _ in attempt.spans]:
                attempt.spans.append((number, late))


class StoreMachine(RuleBasedStateMachine):
    """Does everything twice, and compares."""

    def make_store(self, folder: Path, clock: ManualClock) -> Store:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = ManualClock(0.0)
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.store = self.make_store(Path(self.folder.name), self.clock)
        self.run(self.store.__aenter__())

    def run(self, call: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await call

        return self.runner.run(wait())

    def teardown(self) -> None:
        self.run(self.store.__aexit__())
        self.runner.close()
        self.folder.cleanup()

    @rule(
        priorities=st.lists(st.integers(-1, 1), min_size=1, max_size=3),
        timeout_s=st.sampled_from([None, 3.0, 12.0]),
        max_attempts=st.integers(1, 3),
        retry_on=st.sets(st.sampled_from(FailureClass)),
    )
    def enqueue(
        self, priorities: list[int], timeout_s: float | None, max_attempts: int, retry_on: set[FailureClass]
    ) -> None:
        config = RolloutConfig(
            timeout_s=timeout_s, max_attempts=max_attempts, retry_on=tuple(sorted(retry_on))
        )
        start = len(self.model.rollouts)
        rollouts = [ModelRollout(start + n, priority, config) for n, priority in enumerate(priorities)]
        self.model.rollouts += rollouts
        requests = [
            RolloutRequest(task=each.number, id=f"r{each.number}", priority=each.priority, config=config)
            for each in rollouts
        ]
        self.run(self.store.rollouts.enqueue(requests))

    @rule(limit=st.integers(0, 3), ttl_s=st.sampled_from([2.0, 10.0]))
    def lease(self, limit: int, ttl_s: float) -> None:
        leases = self.run(self.store.rollouts.lease("worker", limit=limit, ttl_s=ttl_s))
        expected = [(attempt.rollout.number, attempt.token) for attempt in self.model.lease(limit, ttl_s)]
        assert [(lease.rollout.task, lease.attempt.token) for lease in leases] == expected

    @rule(pick=PICK, token=st.integers(0, 1), ttl_s=st.sampled_from([2.0, 10.0]))
    def heartbeat(self, pick: int, token: int, ttl_s: float) -> None:
        if (attempt := self.pick(pick)) is None:
            return
        cancelled = attempt.status == "cancelled"
        alive = token == 0 and (attempt.open or cancelled)
        call = self.store.rollouts.heartbeat(self.name(attempt), token=attempt.token - token, ttl_s=ttl_s)
        assert self.refused(call) == (not alive)
        if alive and not cancelled:
            attempt.status, attempt.expires_at = "running", self.model.now + ttl_s

    @rule(pick=PICK, kind=KINDS, token=st.integers(0, 1))
    def finish(self, pick: int, kind: str | None, token: int) -> None:
        if (attempt := self.pick(pick)) is None:
            return
        allowed = token == 0 and (attempt.open or attempt.finished == (kind,))
        failure = None if kind is None else Failure(kind=FailureClass(kind), message="by hand")
        call = self.store.rollouts.finish(self.name(attempt), token=attempt.token - token, failure=failure)
        assert self.refused(call) == (not allowed)
        if allowed and attempt.open:
            self.model.end(attempt, kind)
            attempt.finished = (kind,)

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        if self.model.rollouts:
            rollout = self.model.rollouts[pick % len(self.model.rollouts)]
            self.model.cancel(rollout)
            self.run(self.store.rollouts.cancel([f"r{rollout.number}"]))

    @rule(pick=PICK, spans=st.lists(st.integers(0, 8), max_size=4), token=st.integers(0, 1))
    def append(self, pick: int, spans: list[int], token: int) -> None:
        if (attempt := self.pick(pick)) is None:
            return
        self.model.append(attempt, spans, attempt.token - token)
        sent = [self.span(attempt, number) for number in spans]
        self.run(self.store.spans.append(sent, token=attempt.token - token))

    @rule(seconds=st.sampled_from([1.0, 2.0, 5.0, -1.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.now = self.clock.now
        self.run(self.store.sweep())
        self.model.sweep()

    @invariant()
    def they_agree(self) -> None:
        rollouts = self.run(self.store.rollouts.list(limit=1000)).items
        assert [rollout.status for rollout in rollouts] == [each.status for each in self.model.rollouts]
        attempts = self.run(self.store.rollouts.attempts([rollout.id for rollout in rollouts]))
        expected = [attempt for rollout in self.model.rollouts for attempt in rollout.attempts]
        assert [attempt.status for attempt in attempts] == [each.status for each in expected]
        done = self.run(self.store.rollouts.completions(limit=1000))
        assert [each.rollout.task for each in done] == self.model.completed
        spans = self.run(self.store.spans.page(SpanQuery(include_late=True))).items
        assert [(span.start_ns, span.late, span.sequence) for span in spans] == [
            (*span, sequence)
            for attempt in self.model.attempts
            for sequence, span in enumerate(attempt.spans, 1)
        ]

    def pick(self, pick: int) -> ModelAttempt | None:
        return self.model.attempts[pick % len(self.model.attempts)] if self.model.attempts else None

    def name(self, attempt: ModelAttempt) -> str:
        return f"r{attempt.rollout.number}.{attempt.token}"

    def refused(self, call: Awaitable[Any]) -> bool:
        try:
            self.run(call)
        except LeaseLost:
            return True
        return False

    def span(self, attempt: ModelAttempt, number: int) -> Span:
        return Span(
            rollout_id=f"r{attempt.rollout.number}",
            attempt_id=self.name(attempt),
            span_id=f"{number:016x}",
            trace_id="0" * 32,
            name="span",
            operation="chat",
            source=SpanSource.GATEWAY,
            start_ns=number,
            end_ns=number,
        )


class MemoryMachine(StoreMachine):
    def make_store(self, folder: Path, clock: ManualClock) -> Store:
        return MemoryStore(clock=clock)


class SqliteMachine(StoreMachine):
    def make_store(self, folder: Path, clock: ManualClock) -> Store:
        return SqliteStore(folder / "store.db", clock=clock)


TestMemoryModel = MemoryMachine.TestCase
TestMemoryModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
