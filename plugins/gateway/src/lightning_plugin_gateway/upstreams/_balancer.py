"""Spreads a model's calls over its servers: placement, limits, a line, and a breaker for each."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from math import ceil

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams._breaker import Breaker, BreakerState, Ticket
from lightning_plugin_gateway.upstreams._line import Line
from lightning_plugin_gateway.upstreams._placement import place
from lightning_plugin_gateway.upstreams._policy import HttpPolicy
from lightning_plugin_gateway.upstreams._status import ServerStatus

_log = logging.getLogger(__name__)


class Replica:
    """What is known of one server.

    Attributes:
        in_flight: Calls that it answers now.
        calls: Tries sent to it so far.
        failures: Those that failed by its fault.
        idle: Set while it answers none.
    """

    def __init__(self, url: str, breaker: Breaker) -> None:
        self.url = url
        self.breaker = breaker
        self.in_flight = self.calls = self.failures = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def status(self) -> ServerStatus:
        """For people."""
        return ServerStatus(
            url=self.url,
            state=self.breaker.state,
            in_flight=self.in_flight,
            calls=self.calls,
            failures=self.failures,
        )


class Lease:
    """One try at one server; its holder closes it.

    Attributes:
        url: The server's base URL.
    """

    def __init__(self, balancer: Balancer, replica: Replica) -> None:
        self.url = replica.url
        self._balancer = balancer
        self._replica = replica
        self._ticket: Ticket = replica.breaker.enter()
        self._over = False
        replica.in_flight += 1
        replica.idle.clear()
        replica.calls += 1

    def succeeded(self) -> None:
        """The server answers."""
        self._balancer.judge(self._replica, self._ticket, failure="")

    def failed(self, failure: str) -> None:
        """The server failed, for the reason that is told."""
        self._replica.failures += 1
        self._balancer.judge(self._replica, self._ticket, failure=failure)

    def close(self) -> None:
        """The try is over; without a verdict it says nothing about the server."""
        if self._over:
            return
        self._over = True
        self._replica.in_flight -= 1
        if not self._replica.in_flight:
            self._replica.idle.set()
        self._replica.breaker.left(self._ticket)
        self._balancer.serve()


class Balancer:
    """Hands out servers. Belongs to one event loop."""

    def __init__(
        self,
        urls: Iterable[str],
        *,
        name: str,
        limit: int,
        policy: HttpPolicy,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Prepares a balancer.

        Args:
            urls: Servers of the same model and weights.
            name: What the log calls them.
            limit: Most calls in flight at one server; 0 is no limit.
            policy: Of breakers and the line.
            clock: Seconds that only rise.
            rng: Spreads cool-downs.
        """
        self._name = name
        self._limit = limit
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._replicas: dict[str, Replica] = {}
        self._leaving: dict[str, Replica] = {}  # with calls in flight: they count if they come back
        self._line: Line[Lease] = Line()
        self._down_since: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self.assign(urls)

    @property
    def waiting(self) -> int:
        """Calls in line."""
        return len(self._line)

    @property
    def status(self) -> tuple[ServerStatus, ...]:
        """Each server."""
        return tuple(replica.status for replica in list(self._replicas.values()))

    def __len__(self) -> int:
        return len(self._replicas)

    def __contains__(self, url: str) -> bool:
        return url in self._replicas

    def assign(self, urls: Iterable[str]) -> list[Replica]:
        """From now on, these are the servers; what is known of those that stay is kept.

        Returns:
            Those that are none any more; calls may be in flight at them.
        """
        known = self._leaving | self._replicas
        self._replicas = {url: known.get(url) or self._replica(url) for url in urls}
        self._note_down()
        self.serve()
        gone = [replica for url, replica in known.items() if url not in self._replicas]
        self._leaving = {replica.url: replica for replica in gone if replica.in_flight}
        return gone

    def has_fresh(self, tried: set[str]) -> bool:
        """Whether a server that was not tried has room now."""
        return not self._line and not self._ready().keys() <= tried

    async def enter(self, key: bytes, *, avoid: set[str] | None = None) -> Lease:
        """A server for a call, once one has room.

        Args:
            key: Calls of one key go to the same server, if its load allows.
            avoid: Servers to take only if no other has room.

        Raises:
            ApiError: 429, the line is full; 503, all servers have been down for too long.
        """
        tried = avoid or set()
        if not self._line and (lease := self._admit(key, tried)):
            return lease
        if self._given_up():
            raise self._down()
        if len(self._line) >= self._policy.max_waiting:
            message = f"{len(self._line)} calls wait for this model already; try again later"
            raise ApiError(429, message, fault="upstream_busy", retry_after="1")
        waiter = self._line.join(key, avoid=tried)
        self.serve()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            self._line.leave(waiter)
            if waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
                waiter.turn.result().close()
            raise

    def judge(self, replica: Replica, ticket: Ticket, *, failure: str) -> None:
        """Takes a verdict about a server; without a failure it is a good one."""
        breaker = replica.breaker
        before = breaker.state
        if failure:
            breaker.failed(ticket)
        else:
            breaker.succeeded(ticket)
        if breaker.state is before:
            return
        self._note_down()
        if breaker.state is BreakerState.CLOSED:
            _log.info("upstream %r: %s answers again", self._name, replica.url)
        elif before is BreakerState.CLOSED:
            wait_s = breaker.remaining_s
            told = "upstream %r: %s is left alone for %.1f s, it keeps failing: %s"
            _log.warning(told, self._name, replica.url, wait_s, failure)
        self.serve()

    def serve(self) -> None:
        """Gives servers to the calls whose turn it is."""
        if not self._line:
            return
        if self._given_up():
            while self._line:
                turn = self._line.pop().turn
                if not turn.done():
                    turn.set_exception(self._down())
        while self._line and self._ready():
            waiter = self._line.pop()
            if not waiter.turn.done() and (lease := self._admit(waiter.key, waiter.avoid)):
                waiter.turn.set_result(lease)
        self._set_alarm()

    def close(self) -> None:
        """Ends its timer."""
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None

    def _replica(self, url: str) -> Replica:
        return Replica(url, Breaker(self._policy, clock=self._clock, rng=self._rng))

    def _ready(self) -> dict[str, int]:
        limit = self._limit
        return {
            url: replica.in_flight
            for url, replica in self._replicas.items()
            if (not limit or replica.in_flight < limit) and replica.breaker.admits
        }

    def _admit(self, key: bytes, avoid: set[str]) -> Lease | None:
        ready = self._ready()
        if not ready:
            return None
        fresh = {url: load for url, load in ready.items() if url not in avoid} if avoid else ready
        return Lease(self, self._replicas[place(key, fresh or ready)])

    def _note_down(self) -> None:
        if any(replica.breaker.state is BreakerState.CLOSED for replica in self._replicas.values()):
            self._down_since = None
        elif self._down_since is None:
            self._down_since = self._clock()

    def _given_up(self) -> bool:
        since = self._down_since
        return (
            since is not None and self._clock() >= since + self._policy.longest_wait_s and not self._ready()
        )

    def _down(self) -> ApiError:
        wait_s = min((replica.breaker.remaining_s for replica in self._replicas.values()), default=0.0)
        message = f"all {len(self)} servers of this model keep failing and are left alone for {wait_s:.1f} s"
        return ApiError(503, message, fault="upstream_down", retry_after=str(max(ceil(wait_s), 1)))

    def _set_alarm(self) -> None:
        """Wakes up when a breaker lets a call through, or when those that wait are to be sent away."""
        self.close()
        if not self._line:
            return
        waits_s = [
            left_s for replica in self._replicas.values() if (left_s := replica.breaker.remaining_s) > 0
        ]
        if self._down_since is not None:
            until_s = self._down_since + self._policy.longest_wait_s - self._clock()
            if until_s > 0:
                waits_s.append(until_s)
        if waits_s:
            self._alarm = asyncio.get_running_loop().call_later(min(waits_s), self.serve)
