"""`StoreMachine`: random operations on a store and on a model of it, which must never differ."""
# ruff: noqa: S101 - tests assert

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentlightning.errors import LeaseLost
from agentlightning.store import Retention, SpanQuery, Store
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.testing._store_model import Model, ModelAttempt, ModelRollout, ModelSet
from agentlightning.testing._store_run_contract import job
from agentlightning.types import (
    Failure,
    FailureClass,
    ResourceState,
    RolloutConfig,
    RolloutRequest,
    RunStatus,
    Span,
    SpanSource,
)

Result = TypeVar("Result")
KINDS = st.none() | st.sampled_from([kind.value for kind in FailureClass])
PICK = st.integers(0, 10**6)
RUNS = st.sampled_from([None, "open", "over"])
STATES = st.sampled_from([state for state in ResourceState if state is not ResourceState.CANDIDATE])
WEIGHTS = st.sampled_from([0.0, 1.0])  # so that nothing is left to chance


class StoreMachine(RuleBasedStateMachine):
    """Does everything twice, to a store and to a model of it, and compares after each step.

    Subclass it, say how an empty store is made, and give pytest its `TestCase`.

    Example:
        class MyMachine(StoreMachine):
            def make_store(self, folder, clock):
                return MyStore(folder / "file", clock=clock)

        TestMyStoreAgainstTheModel = MyMachine.TestCase
    """

    def make_store(self, folder: Path, clock: ManualClock) -> Store:
        """Makes an empty store that judges time by `clock`."""
        raise NotImplementedError("a store machine needs `make_store(self, folder, clock)`")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(open_run="open")
        self.clock = ManualClock(0.0)
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.keys = 0
        self.store = self.make_store(Path(self.folder.name), self.clock)
        self.run(self.store.__aenter__())
        for name in ("open", "over"):
            self.run(self.store.runs.create(job(name)))
        self.run(self.store.runs.update("over", status=RunStatus.SUCCEEDED))

    def run(self, call: Awaitable[Result]) -> Result:
        async def wait() -> Result:
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
        run_id=RUNS,
    )
    def enqueue(
        self,
        priorities: list[int],
        timeout_s: float | None,
        max_attempts: int,
        retry_on: set[FailureClass],
        run_id: str | None,
    ) -> None:
        config = RolloutConfig(
            timeout_s=timeout_s, max_attempts=max_attempts, retry_on=tuple(sorted(retry_on))
        )
        start = len(self.model.rollouts)
        rollouts = [
            ModelRollout(start + n, priority, config, run_id) for n, priority in enumerate(priorities)
        ]
        self.model.rollouts += rollouts
        requests = [
            RolloutRequest(
                task=each.number,
                id=f"r{each.number}",
                priority=each.priority,
                config=config,
                run_id=run_id,
            )
            for each in rollouts
        ]
        for _ in range(2):
            self.run(self.store.rollouts.enqueue(requests, idempotency_key=f"e{start}"))

    @rule(limit=st.integers(0, 3), ttl_s=st.sampled_from([2.0, 10.0]), run_id=RUNS)
    def lease(self, limit: int, ttl_s: float, run_id: str | None) -> None:
        self.keys += 1
        taken = self.model.lease(limit, ttl_s, run_id)
        expected = [(attempt.rollout.number, attempt.token) for attempt in taken]
        for _ in range(2 if expected else 1):  # a repeated call gives the same leases
            call = self.store.rollouts.lease(
                "worker", limit=limit, ttl_s=ttl_s, run_id=run_id, idempotency_key=f"l{self.keys}"
            )
            leases = self.run(call)
            assert [(lease.rollout.task, lease.attempt.token) for lease in leases] == expected

    @rule(state=STATES, weight=WEIGHTS)
    def publish(self, state: ResourceState, weight: float) -> None:
        self.keys += 1
        publish = partial(
            self.store.resources.publish,
            {},
            parent=self.model.live(),
            state=state,
            weight=weight,
            idempotency_key=f"p{self.keys}",
        )
        first, again = self.run(publish()), self.run(publish())
        assert first == again
        self.model.sets.append(ModelSet(first.id, "candidate", 0.0))
        self.model.move(self.model.sets[-1], state.value, weight)

    @rule(pick=PICK, state=STATES, weight=WEIGHTS)
    def move(self, pick: int, state: ResourceState, weight: float) -> None:
        if self.model.sets:
            moved = self.model.sets[pick % len(self.model.sets)]
            self.run(self.store.resources.move(moved.id, state, weight=weight))
            self.model.move(moved, state.value, weight)

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
        there = self.there()
        if there:
            rollout = there[pick % len(there)]
            self.model.cancel(rollout)
            self.run(self.store.rollouts.cancel([f"r{rollout.number}"]))

    @rule(pick=PICK, spans=st.lists(st.integers(0, 8), max_size=4), token=st.integers(0, 1))
    def append(self, pick: int, spans: list[int], token: int) -> None:
        if (attempt := self.pick(pick)) is None:
            return
        self.model.append(attempt, spans, attempt.token - token)
        sent = [self.span(attempt, number) for number in spans]
        self.run(self.store.spans.append(sent, token=attempt.token - token))

    @rule(most=st.integers(0, 4))
    def trim(self, most: int) -> None:
        trimmed = self.run(self.store.trim(Retention(max_rollouts=most)))
        assert trimmed.rollouts == self.model.trim(most)

    @rule(seconds=st.sampled_from([1.0, 2.0, 5.0, -1.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.now = self.clock.now
        self.run(self.store.sweep())
        self.model.sweep()

    @invariant()
    def they_agree(self) -> None:
        rollouts = self.run(self.store.rollouts.list(limit=1000)).items
        assert [(rollout.status, rollout.resources) for rollout in rollouts] == [
            (each.status, each.resources) for each in self.there()
        ]
        sets = self.run(self.store.resources.list(limit=1000))
        assert [(one.id, one.state) for one in reversed(sets)] == [
            (each.id, each.state) for each in self.model.sets
        ]
        attempts = self.run(self.store.rollouts.attempts([rollout.id for rollout in rollouts]))
        expected = [attempt for rollout in self.there() for attempt in rollout.attempts]
        assert [attempt.status for attempt in attempts] == [each.status for each in expected]
        done = self.run(self.store.rollouts.completions(limit=1000))
        assert [each.rollout.task for each in done] == [
            number for number in self.model.completed if not self.model.rollouts[number].gone
        ]
        spans = self.run(self.store.spans.page(SpanQuery(include_late=True))).items
        assert [(span.start_ns, span.late, span.sequence) for span in spans] == [
            (*span, sequence)
            for attempt in self.model.attempts
            if not attempt.rollout.gone
            for sequence, span in enumerate(attempt.spans, 1)
        ]

    def pick(self, pick: int) -> ModelAttempt | None:
        there = [attempt for attempt in self.model.attempts if not attempt.rollout.gone]
        return there[pick % len(there)] if there else None

    def there(self) -> list[ModelRollout]:
        return [rollout for rollout in self.model.rollouts if not rollout.gone]

    def name(self, attempt: ModelAttempt) -> str:
        return f"r{attempt.rollout.number}.{attempt.token}"

    def refused(self, call: Awaitable[object]) -> bool:
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
