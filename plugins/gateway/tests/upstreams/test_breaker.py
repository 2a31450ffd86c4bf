from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lightning_plugin_gateway.upstreams import BreakerState, HttpPolicy
from lightning_plugin_gateway.upstreams._breaker import Breaker, Ticket

POLICY = HttpPolicy(
    trip_after=3, trip_share=0.5, trip_calls=8, trip_window_s=8.0, cooldown_s=1.0, longest_cooldown_s=5.0
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(seed: int = 0) -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(POLICY, clock=clock, rng=random.Random(seed)), clock


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        ticket = breaker.enter()
        breaker.failed(ticket)
        breaker.left(ticket)


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        ticket = breaker.enter()
        breaker.succeeded(ticket)
        breaker.left(ticket)


def test_failures_in_a_row_open_it() -> None:
    breaker, _ = made()
    fail(breaker, 2)
    succeed(breaker)
    fail(breaker, 2)
    assert breaker.admits
    fail(breaker)
    assert (breaker.state, breaker.admits) == (BreakerState.OPEN, False)


def test_a_share_of_failures_opens_it_once_there_are_enough_calls() -> None:
    breaker, clock = made()
    for _ in range(3):
        succeed(breaker)
        fail(breaker)
        clock.now += 1
    succeed(breaker)
    assert breaker.admits
    fail(breaker)
    assert breaker.state is BreakerState.OPEN


def test_old_failures_do_not_count() -> None:
    breaker, clock = made()
    for _ in range(20):
        succeed(breaker)
        fail(breaker)
        assert breaker.state is BreakerState.CLOSED
        clock.now += 4


def test_after_its_cool_down_one_call_is_let_through_and_decides() -> None:
    breaker, clock = made()
    fail(breaker, 3)
    assert 0.5 <= breaker.remaining_s <= 1.0
    clock.now += breaker.remaining_s
    assert (breaker.state, breaker.admits) == (BreakerState.HALF_OPEN, True)
    probe = breaker.enter()
    assert not breaker.admits
    breaker.succeeded(probe)
    assert (breaker.state, breaker.admits) == (BreakerState.CLOSED, True)


def test_a_probe_that_leaves_makes_way_for_another() -> None:
    breaker, clock = made()
    fail(breaker, 3)
    clock.now += 1
    probe = breaker.enter()
    breaker.left(probe)
    assert breaker.admits


def test_cool_downs_double_up_to_a_limit_and_are_spread() -> None:
    breaker, clock = made()
    fail(breaker, 3)
    seen = []
    for _ in range(5):
        seen.append(breaker.remaining_s)
        clock.now += breaker.remaining_s
        fail(breaker)
    for place, (found, longest) in enumerate(zip(seen, [1, 2, 4, 5, 5], strict=True)):
        assert longest / 2 <= found <= longest, place
    others = []
    for seed in range(20):
        breaker, _ = made(seed)
        fail(breaker, 3)
        others.append(breaker.remaining_s)
    assert len(set(others)) == 20


@pytest.mark.parametrize("verdict", [Breaker.succeeded, Breaker.failed])
def test_a_call_from_before_it_opened_decides_nothing(verdict: object) -> None:
    breaker, clock = made()
    old = breaker.enter()
    fail(breaker, 3)
    left_s = breaker.remaining_s
    verdict(breaker, old)  # type: ignore[operator]
    assert breaker.remaining_s == left_s
    clock.now += 1
    verdict(breaker, old)  # type: ignore[operator]
    assert breaker.state is BreakerState.HALF_OPEN


def test_an_answer_from_before_it_opened_breaks_no_row_of_failures() -> None:
    breaker, clock = made()
    old = breaker.enter()
    fail(breaker, 3)
    clock.now += 1
    succeed(breaker)
    fail(breaker, 2)
    breaker.succeeded(old)
    fail(breaker)
    assert breaker.state is BreakerState.OPEN


class AnyOrder(RuleBasedStateMachine):
    """Calls enter, end and leave in any order, while time goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.clock = made()
        self.out: list[Ticket] = []
        self.good = 0  # good verdicts about this opening, or calls before it
        self.opened_at: float | None = None

    @precondition(lambda self: self.breaker.admits)
    @rule()
    def enter(self) -> None:
        self.out.append(self.breaker.enter())

    @precondition(lambda self: self.out)
    @rule(data=st.data(), good=st.sampled_from([True, False, None]))
    def end(self, data: st.DataObject, good: bool | None) -> None:
        ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.breaker.state
        if good is not None:
            (self.breaker.succeeded if good else self.breaker.failed)(ticket)
        self.breaker.left(ticket)
        after = self.breaker.state
        if before is BreakerState.OPEN:
            assert after is BreakerState.OPEN
        if before is BreakerState.HALF_OPEN and after is not before:
            assert ticket.probe
            assert after is (BreakerState.CLOSED if good else BreakerState.OPEN)
        if before is BreakerState.CLOSED and after is not before:
            assert (good, after) == (False, BreakerState.OPEN)

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        before = self.breaker.state
        self.clock.now += seconds
        after = self.breaker.state
        assert before is after or (before, after) == (BreakerState.OPEN, BreakerState.HALF_OPEN)

    @invariant()
    def at_most_one_probe(self) -> None:
        probes = [ticket for ticket in self.out if ticket.probe and ticket.epoch == self.breaker._epoch]
        assert len(probes) <= 1
        if self.breaker.state is BreakerState.HALF_OPEN:
            assert self.breaker.admits == (not probes)

    @invariant()
    def always_on_its_way_back(self) -> None:
        assert self.breaker.remaining_s <= POLICY.longest_cooldown_s
        assert self.breaker.admits or self.breaker.remaining_s > 0 or any(one.probe for one in self.out)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(deadline=None, derandomize=True)
