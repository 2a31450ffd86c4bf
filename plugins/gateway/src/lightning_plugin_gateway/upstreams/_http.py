"""A model behind URLs: tries again where nothing was told yet, and tells nothing of the client's but the request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec

from agentlightning.gateway import HttpUpstream
from lightning_plugin_gateway._alarms import Alarms
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams._balancer import Balancer, Lease, Replica
from lightning_plugin_gateway.upstreams._breaker import BreakerState
from lightning_plugin_gateway.upstreams._checks import check_bounds, checked_wires, key_of
from lightning_plugin_gateway.upstreams._events import Events, decoded
from lightning_plugin_gateway.upstreams._faults import UpstreamFault, answer_fault, late_error
from lightning_plugin_gateway.upstreams._model import CallRoute
from lightning_plugin_gateway.upstreams._policy import HttpPolicy
from lightning_plugin_gateway.upstreams._protocols import PROTOCOLS
from lightning_plugin_gateway.upstreams._server import Answer, Server
from lightning_plugin_gateway.upstreams._status import ModelStatus

Result = TypeVar("Result")
Try = Callable[[Lease], Awaitable[Result]]


class HttpModel:
    """Calls one upstream: several servers of the same model and weights."""

    is_engine = False

    def __init__(
        self,
        upstream: HttpUpstream,
        *,
        policy: HttpPolicy,
        title: str = "",
        rng: random.Random | None = None,
    ) -> None:
        """Prepares an upstream.

        Args:
            upstream: Where it is, and what it speaks.
            policy: Patience with it.
            title: What the log calls it; empty for its own name.
            rng: Spreads waits; None is one of its own.

        Raises:
            ConfigError: A URL, a wire or a number cannot be used, or the key's variable is not set.
        """
        self.name = upstream.model
        self.token_ids = upstream.token_ids
        self.wires = checked_wires(upstream)
        self.provider = "anthropic" if upstream.wires[0] == "messages" else "openai"
        self._policy = policy
        self._key = key_of(upstream)
        check_bounds(upstream)
        self._rng = rng or random.Random()
        self._calls = self._failures = self._retries = 0
        self._alarms = Alarms()
        self._servers: dict[str, Server] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._balancer = Balancer(
            (),
            name=title or upstream.model,
            limit=upstream.max_concurrency,
            policy=policy,
            clock=time.monotonic,
            rng=self._rng,
        )
        self.assign((upstream.base_url, *upstream.replicas))

    @property
    def version(self) -> int:
        """Unknown: such a server does not say, or is not to be believed."""
        return -1

    def assign(self, urls: Iterable[str]) -> None:
        """From now on, these are its servers; what is known of those that stay is kept. Raises `ConfigError`.

        Calls in flight at those that go end as they would have.
        """
        wanted = list(dict.fromkeys(urls))
        for url in wanted:
            if url not in self._servers:
                self._servers[url] = Server(url, key=self._key, policy=self._policy, alarms=self._alarms)
        for replica in self._balancer.assign(wanted):
            task = asyncio.get_running_loop().create_task(self._retire(replica))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _retire(self, replica: Replica) -> None:
        await replica.idle.wait()
        if replica.url not in self._balancer and (server := self._servers.pop(replica.url, None)):
            await server.stop()

    async def stop(self) -> None:
        """Closes connections."""
        self._balancer.close()
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    async def call(self, wire: str, request: Body, *, route: CallRoute) -> Body:
        """A whole answer. Raises `ApiError`."""
        send = self._sender(wire, request, route)

        async def once(lease: Lease) -> Body:
            answer = await send(lease)
            try:
                raw = await answer.read()
            finally:
                answer.close()
            body = decoded(raw, answer=answer, slim=route.slim and wire == "chat")
            if not isinstance(body, dict) or not PROTOCOLS[wire].is_answer(body):
                raise answer_fault(raw, secrets=answer.secrets)
            lease.succeeded()
            lease.close()
            return body

        return await self._counted(once, route)

    async def stream(self, wire: str, request: Body, *, route: CallRoute) -> AsyncGenerator[Body]:
        """The data of the events of an answer. Raises `ApiError`."""
        send = self._sender(wire, request, route)

        async def once(lease: Lease) -> tuple[Events, Lease]:
            """Up to the first event: until that is there, another server may be asked."""
            answer = await send(lease)
            events = Events(answer, PROTOCOLS[wire])
            try:
                if not answer.is_events:
                    raise answer_fault(await answer.read(), secrets=answer.secrets)
                await events.fill()
            except BaseException:
                events.close()
                raise
            lease.succeeded()
            return events, lease

        events, lease = await self._counted(once, route)
        try:
            while events.batch:
                for event in events.batch:
                    yield event
                await events.fill()
        except UpstreamFault as fault:
            self._failures += 1
            _judge(lease, fault)
            raise fault.error from fault
        finally:
            events.close()
            lease.close()

    def status(self) -> ModelStatus:
        """How it fares."""
        servers = self._balancer.status
        return ModelStatus(
            calls=self._calls,
            failures=self._failures,
            retries=self._retries,
            in_flight=sum(server.in_flight for server in servers),
            waiting=self._balancer.waiting,
            open_breakers=sum(server.state is not BreakerState.CLOSED for server in servers),
            servers=servers,
        )

    def _sender(self, wire: str, request: Body, route: CallRoute) -> Callable[[Lease], Awaitable[Answer]]:
        protocol = PROTOCOLS[wire]
        payload = msgspec.json.encode(request)
        headers = {**protocol.headers, **route.headers, **protocol.key_headers(self._key)}
        deadline = self._deadline(route)
        return lambda lease: self._servers[lease.url].post(
            protocol.path, payload, headers=headers, deadline=deadline
        )

    async def _counted(self, once: Try[Result], route: CallRoute) -> Result:
        self._calls += 1
        deadline = min(self._deadline(route), time.monotonic() + self._policy.total_s)
        try:
            with self._alarms.timeout(deadline):
                return await self._tried(once, key=route.rollout_id.encode() or route.prefix, until=deadline)
        except ApiError:
            self._failures += 1
            raise
        except TimeoutError:
            self._failures += 1
            raise late_error() from None

    async def _tried(self, once: Try[Result], *, key: bytes, until: float) -> Result:
        tried: set[str] = set()
        failures = 0
        last: UpstreamFault | None = None
        while True:
            try:
                lease = await self._balancer.enter(key, avoid=tried)
            except ApiError as error:
                raise (last.error if last else error) from last
            try:
                return await once(lease)
            except UpstreamFault as fault:
                last = fault
                failures += 1
                tried.add(lease.url)
                _judge(lease, fault)
                wait_s = self._wait_s(fault, failures, tried)
                if wait_s is None or time.monotonic() + wait_s >= until:
                    raise fault.error from fault
            except BaseException:
                lease.close()
                raise
            self._retries += 1
            await asyncio.sleep(wait_s)

    def _wait_s(self, fault: UpstreamFault, failures: int, tried: set[str]) -> float | None:
        """How long until the next try; None if there is none."""
        policy = self._policy
        if failures >= max(policy.tries, len(self._balancer)):
            return None
        if fault.elsewhere and self._balancer.has_fresh(tried):
            return 0.0
        if not fault.transient or fault.wait_s > policy.longest_wait_s:
            return None
        longest_s = min(policy.backoff_s * 2.0 ** (failures - 1), policy.longest_wait_s)
        return fault.wait_s + self._rng.uniform(0.0, longest_s)

    @staticmethod
    def _deadline(route: CallRoute) -> float:
        return float("inf") if route.deadline is None else route.deadline


def _judge(lease: Lease, fault: UpstreamFault) -> None:
    """What a failed try says about its server, and its end."""
    if fault.sick:
        lease.failed(fault.error.message)
    elif fault.error.fault != "timeout":
        lease.succeeded()
    lease.close()
