from __future__ import annotations

import asyncio
import random

import pytest
from upstreams_bench import until

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams import HttpPolicy
from lightning_plugin_gateway.upstreams._balancer import Balancer, Lease

SERVERS = ("http://a/v1", "http://b/v1", "http://c/v1")
LIMIT = 2


def made(*servers: str, limit: int = LIMIT, policy: HttpPolicy | None = None) -> Balancer:
    return Balancer(
        servers,
        name="m",
        limit=limit,
        policy=policy or HttpPolicy(trip_after=2, cooldown_s=0.002, longest_cooldown_s=0.004),
        clock=asyncio.get_running_loop().time,
        rng=random.Random(0),
    )


async def test_a_call_that_leaves_as_its_turn_comes_hands_the_server_on() -> None:
    balancer = made("a", limit=1)
    first = await balancer.enter(b"1")
    second, third = (asyncio.create_task(balancer.enter(key)) for key in (b"2", b"3"))
    await until(lambda: balancer.waiting == 2)
    first.close()  # gives the server to the second, which is cancelled before it hears of that
    second.cancel()
    (await third).close()
    assert second.cancelled()
    assert (balancer.waiting, balancer.status[0].in_flight) == (0, 0)


async def test_a_server_that_was_tried_is_taken_again_only_if_no_other_has_room() -> None:
    balancer = made("a", "b", limit=1)
    tried = await balancer.enter(b"1")
    other = await balancer.enter(b"1", avoid={tried.url})
    assert other.url != tried.url
    tried.close()
    assert (await balancer.enter(b"1", avoid={tried.url})).url == tried.url


async def test_newcomers_do_not_overtake_those_in_line() -> None:
    balancer = made("a", limit=1)
    order: list[int] = []

    async def call(number: int) -> None:
        lease = await balancer.enter(b"%d" % number)
        order.append(number)
        lease.close()

    first = await balancer.enter(b"0")
    waiting = [asyncio.create_task(call(number)) for number in (1, 2)]
    await until(lambda: balancer.waiting == 2)
    first.close()
    await asyncio.gather(call(3), *waiting)
    assert order == [1, 2, 3]


async def test_a_probe_that_leaves_without_a_verdict_makes_way_for_the_next() -> None:
    balancer = made("a", policy=HttpPolicy(trip_after=1, cooldown_s=0.001, longest_wait_s=60.0))
    lease = await balancer.enter(b"1")
    lease.failed("it broke")
    lease.close()
    probe = await balancer.enter(b"1")
    waiting = asyncio.create_task(balancer.enter(b"2"))
    await until(lambda: balancer.waiting == 1)
    probe.close()
    assert (await asyncio.wait_for(waiting, 5)).url == "a"
    balancer.close()


class Traffic:
    """Calls that come, go, fail and leave at random."""

    def __init__(self, balancer: Balancer, rng: random.Random) -> None:
        self.balancer = balancer
        self.rng = rng
        self.calls: set[asyncio.Task[Lease]] = set()
        self.leases: list[Lease] = []

    async def step(self) -> None:
        kind = self.rng.choice(["enter", "enter", "leave", "wait", "assign", *["end"] * 4])
        if kind == "enter":
            key = self.rng.choice([b"1", b"2", b"3"])
            self.calls.add(asyncio.create_task(self.balancer.enter(key)))
        elif kind == "leave" and self.calls:
            self.rng.choice(sorted(self.calls, key=id)).cancel()
        elif kind == "wait":
            await asyncio.sleep(0.001)
        elif kind == "assign":
            self.balancer.assign(self.rng.sample(SERVERS, self.rng.randint(1, 3)))
        elif self.leases:
            self.end(self.rng.choice(self.leases))
        await self.settle()

    def end(self, lease: Lease) -> None:
        verdict = self.rng.choice(["good", "bad", "none", "none"])
        if verdict == "good":
            lease.succeeded()
        elif verdict == "bad":
            lease.failed("it broke")
        else:
            self.leases.remove(lease)
            lease.close()
            lease.close()

    async def settle(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for call in [call for call in self.calls if call.done()]:
            self.calls.remove(call)
            if not call.cancelled():
                self.leases.append(call.result())

    async def drain(self) -> None:
        while self.calls or self.leases:
            for lease in self.leases:
                lease.succeeded()
                lease.close()
            self.leases.clear()
            await asyncio.sleep(0.001)
            await self.settle()


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_limits_hold_and_nobody_waits_while_a_server_has_room(seed: int) -> None:
    policy = HttpPolicy(trip_after=2, cooldown_s=0.002, longest_cooldown_s=0.004, longest_wait_s=60.0)
    balancer = made(*SERVERS, policy=policy)
    traffic = Traffic(balancer, random.Random(seed))
    for _ in range(300):
        await traffic.step()
        assert all(0 <= server.in_flight <= LIMIT for server in balancer.status)
        if balancer.waiting:
            assert all(server.in_flight == LIMIT or server.state != "closed" for server in balancer.status)
    balancer.assign(SERVERS)
    await traffic.drain()
    assert balancer.waiting == 0
    assert all(server.in_flight == 0 for server in balancer.status)
    balancer.close()


async def test_calls_that_wait_too_long_for_servers_that_are_down_are_sent_away() -> None:
    policy = HttpPolicy(trip_after=1, cooldown_s=60.0, longest_cooldown_s=60.0, longest_wait_s=0.02)
    balancer = made("a", policy=policy)
    lease = await balancer.enter(b"1")
    lease.failed("it broke")
    with pytest.raises(ApiError) as caught:
        await balancer.enter(b"2")
    assert (caught.value.status, caught.value.fault, balancer.waiting) == (503, "upstream_down", 0)
    balancer.close()
