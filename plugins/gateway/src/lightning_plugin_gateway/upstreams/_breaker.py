"""A circuit breaker: keeps calls away from a server that fails, and lets one through now and then to see."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from lightning_plugin_gateway.upstreams._policy import HttpPolicy

_BUCKETS = 8


class BreakerState(StrEnum):
    """Closed: calls pass. Open: none does. Half open: one may, and decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Ticket(NamedTuple):
    """One call that was let through.

    Attributes:
        epoch: The breaker's opening or closing that it came after; verdicts from before another do not count.
        probe: It decides about a half-open breaker.
    """

    epoch: int
    probe: bool


class Breaker:
    """Closed, it opens after failures in a row or by their share of a sliding window; see `HttpPolicy`.

    Open, it is half open once its cool-down is over: one call is let through, which closes it or opens it for longer.
    """

    def __init__(self, policy: HttpPolicy, *, clock: Callable[[], float], rng: random.Random) -> None:
        """Prepares a closed breaker.

        Args:
            policy: When it opens, and for how long.
            clock: Seconds that only rise.
            rng: Spreads cool-downs, so that the breakers of many gateways do not end theirs together.
        """
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._epoch = 0
        self._openings = 0
        self._until = 0.0
        self._probing = False
        self._in_a_row = 0
        self._recent = _Window(policy.trip_window_s, clock=clock)

    @property
    def state(self) -> BreakerState:
        """What it does with a call now."""
        if not self._openings:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.remaining_s > 0 else BreakerState.HALF_OPEN

    @property
    def remaining_s(self) -> float:
        """Seconds until it is half open; 0 unless it is open."""
        return max(self._until - self._clock(), 0.0) if self._openings else 0.0

    @property
    def admits(self) -> bool:
        """Whether a call may pass now."""
        state = self.state
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self._probing)

    def enter(self) -> Ticket:
        """Lets a call through; only when `admits`. Its ticket is told what became of it, or that it left."""
        probe = self._openings > 0
        self._probing = self._probing or probe
        return Ticket(self._epoch, probe)

    def succeeded(self, ticket: Ticket) -> None:
        """The server answered."""
        if ticket.epoch != self._epoch:
            return
        if ticket.probe:
            self._openings = 0
            self._turn()
            return
        self._in_a_row = 0
        self._recent.add(failed=False)

    def failed(self, ticket: Ticket) -> None:
        """The server failed."""
        if ticket.epoch != self._epoch:
            return
        self._in_a_row += 1
        self._recent.add(failed=True)
        if ticket.probe or self._in_a_row >= self._policy.trip_after or self._too_many():
            self._open()

    def left(self, ticket: Ticket) -> None:
        """The call ended without a verdict, or after one: as a probe it makes way for the next."""
        if ticket.probe and ticket.epoch == self._epoch:
            self._probing = False

    def _too_many(self) -> bool:
        calls, failures = self._recent.counts()
        return calls >= self._policy.trip_calls and failures >= self._policy.trip_share * calls

    def _open(self) -> None:
        policy = self._policy
        longest = min(policy.cooldown_s * 2.0 ** min(self._openings, 60), policy.longest_cooldown_s)
        self._until = self._clock() + longest * self._rng.uniform(0.5, 1.0)
        self._openings += 1
        self._turn()

    def _turn(self) -> None:
        self._epoch += 1
        self._probing = False
        self._in_a_row = 0
        self._recent.clear()


class _Window:
    """Counts of the last seconds, to an eighth of them."""

    def __init__(self, seconds: float, *, clock: Callable[[], float]) -> None:
        self._width = seconds / _BUCKETS
        self._clock = clock
        self._buckets: deque[list[int]] = deque()

    def add(self, *, failed: bool) -> None:
        place = self._expire()
        if not self._buckets or self._buckets[-1][0] != place:
            self._buckets.append([place, 0, 0])
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += failed

    def counts(self) -> tuple[int, int]:
        self._expire()
        return sum(bucket[1] for bucket in self._buckets), sum(bucket[2] for bucket in self._buckets)

    def clear(self) -> None:
        self._buckets.clear()

    def _expire(self) -> int:
        place = int(self._clock() / self._width)
        while self._buckets and self._buckets[0][0] <= place - _BUCKETS:
            self._buckets.popleft()
        return place
