from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import msgspec
import pytest
from upstreams_bench import (
    HELLO,
    IMPATIENT,
    Opened,
    RawServer,
    Servers,
    answer,
    ask,
    event_stream,
    reply,
    route,
    until,
)

from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedLLM
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams import BreakerState

GOOD = (reply(answer("good")), "keep")
BAD = (reply(b"{}", status=503), "keep")


def good(_: int) -> tuple[bytes, str]:
    return GOOD


def bad(_: int) -> tuple[bytes, str]:
    return BAD


async def test_a_rollouts_calls_go_to_one_server_and_rollouts_are_spread(opened: Opened) -> None:
    with ScriptedLLM() as first, ScriptedLLM() as second, ScriptedLLM() as third:
        farm = [first, second, third]
        async with opened(*(llm.base_url for llm in farm)) as model:
            seen = []
            for number in range(30):
                before = [len(llm.requests) for llm in farm]
                for _ in range(3):
                    await ask(model, f"r{number}")
                seen.append([len(llm.requests) - start for llm, start in zip(farm, before, strict=True)])
        assert all(sorted(counts) == [0, 0, 3] for counts in seen)
        assert all(len(llm.requests) >= 3 for llm in farm)


async def test_calls_of_no_rollout_stay_together_by_their_first_messages(opened: Opened) -> None:
    with ScriptedLLM() as first, ScriptedLLM() as second:
        async with opened(first.base_url, second.base_url) as model:
            for prefix in range(16):
                for _ in range(2):
                    await model.call("chat", HELLO, route=route("", prefix=prefix.to_bytes()))
        counts = len(first.requests), len(second.requests)
    assert sum(counts) == 32
    assert all(count % 2 == 0 and count for count in counts)


async def test_an_overloaded_server_is_left_for_another(opened: Opened) -> None:
    hold = ScriptedAnswer(text="ok", hold_after=0)
    with ScriptedLLM(lambda _: hold) as first, ScriptedLLM(lambda _: hold) as second:
        async with opened(first.base_url, second.base_url) as model, asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(ask(model, "same"))
            await until(lambda: len(first.requests) + len(second.requests) == 20)
            loads = sorted(server.in_flight for server in model.status().servers)
            first.let_go()
            second.let_go()
    assert loads == [7, 13]  # no more than 1.25 times the even share, rounded up


@pytest.mark.parametrize(
    "fault",
    [
        BAD,
        (reply(b"{}", status=500), "keep"),
        (reply(b"{}", status=502), "keep"),
        (reply(b"{}", status=504), "keep"),
        (reply(b"{}", status=429), "keep"),
        (b"", "reset"),
        (b"", "close"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close"),
        (b"nonsense\r\n\r\n", "close"),
    ],
    ids=["503", "500", "502", "504", "429", "reset", "closed", "half a head", "no head"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_fails_before_the_first_byte_is_replaced_at_once(
    servers: Servers, opened: Opened, fault: tuple[bytes, str], stream: bool
) -> None:
    fine = event_stream(b"data: " + answer("good") + b"\n\n", b"data: [DONE]\n\n") if stream else GOOD[0]
    async with servers(lambda _: fault, lambda _: (fine, "keep")) as (broken, other):
        policy = msgspec.structs.replace(IMPATIENT, backoff_s=1000.0, longest_wait_s=1000.0)
        async with opened(broken.url, other.url, policy=policy) as model:
            for number in range(20):
                if stream:
                    assert (
                        len([one async for one in model.stream("chat", HELLO, route=route(f"r{number}"))])
                        == 1
                    )
                else:
                    assert await ask(model, f"r{number}") == "good"
            status = model.status()
        assert broken.requests
        assert len(other.requests) == 20
        assert (status.calls, status.failures, status.in_flight) == (20, 0, 0)
        assert status.retries == len(broken.requests)


async def test_a_bad_request_is_asked_of_one_server_only(servers: Servers, opened: Opened) -> None:
    refused = (reply(b'{"error": {"message": "no"}}', status=400), "keep")
    async with servers(lambda _: refused, lambda _: refused) as (first, second):
        async with opened(first.url, second.url) as model:
            with pytest.raises(ApiError, match="answered 400: no"):
                await ask(model)
        assert len(first.requests) + len(second.requests) == 1


async def test_a_request_that_every_server_fails_on_is_given_up(servers: Servers, opened: Opened) -> None:
    poison = (reply(b"{}", status=500), "keep")
    async with servers(*[lambda _: poison] * 3) as farm, opened(*(one.url for one in farm)) as model:
        with pytest.raises(ApiError) as caught:
            await ask(model)
        assert (caught.value.status, [len(one.requests) for one in farm]) == (500, [1, 1, 1])


async def test_a_server_killed_amid_200_calls_fails_none_that_had_not_begun_to_stream(
    servers: Servers, opened: Opened
) -> None:
    killed = asyncio.Event()

    def script(place: int) -> tuple[bytes, str]:
        if place == 20:
            killed.set()
        return reply(answer("good")), "keep"

    async with servers(script, good, good) as farm, opened(*(one.url for one in farm)) as model:

        async def agent(number: int) -> list[str]:
            return [await ask(model, f"r{number}") for _ in range(5)]

        async with asyncio.TaskGroup() as group:
            agents = [group.create_task(agent(number)) for number in range(40)]
            await killed.wait()
            await farm[0].kill()
        assert [text for one in agents for text in one.result()] == ["good"] * 200
        status = model.status()
        assert (status.calls, status.failures) == (200, 0)
        assert status.retries > 0
        assert status.servers[0].state is not BreakerState.CLOSED


async def test_streams_that_had_begun_at_a_killed_server_fail_and_others_do_not(
    servers: Servers, opened: Opened
) -> None:
    begun = event_stream(b"data: " + answer("go") + b"\n\n", close=False)
    async with (
        servers(lambda _: (begun, "stall"), lambda _: (begun, "stall")) as (first, second),
        opened(first.url, second.url) as model,
    ):
        streams = [model.stream("chat", HELLO, route=route(f"r{number}")) for number in range(24)]
        for stream in streams:
            await anext(stream)
        at_first = first.in_flight
        assert 0 < at_first < 24
        await first.kill()
        pending = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await until(lambda: sum(each.done() for each in pending) >= at_first)
        assert model.status().failures == at_first
        assert second.in_flight == 24 - at_first
        for each in pending:
            each.cancel()
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert Counter(map(type, outcomes)) == {ApiError: at_first, asyncio.CancelledError: 24 - at_first}


async def test_an_unhealthy_server_gets_no_calls_and_comes_back(
    servers: Servers, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    health = {"bad": True}
    async with servers(lambda _: BAD if health["bad"] else GOOD, good) as (sick, well):
        policy = msgspec.structs.replace(IMPATIENT, trip_after=3, cooldown_s=0.2, longest_cooldown_s=0.2)
        caplog.set_level(logging.INFO, logger="lightning_plugin_gateway")
        async with opened(sick.url, well.url, policy=policy) as model:
            number = 0
            while model.status().servers[0].state is BreakerState.CLOSED:
                assert await ask(model, f"r{(number := number + 1)}") == "good"
            assert len(sick.requests) == 3
            for number in range(20):
                assert await ask(model, f"r{number}") == "good"
                if model.status().servers[0].state is BreakerState.OPEN:
                    assert len(sick.requests) == 3
            assert model.status().open_breakers == 1
            health["bad"] = False
            while (
                model.status().open_breakers
            ):  # of new rollouts, some are placed at the server that is well again
                await asyncio.gather(*(ask(model, f"r{(number := number + 1)}") for _ in range(4)))
                await asyncio.sleep(0.01)
            assert model.status().failures == 0
    told = [record.getMessage() for record in caplog.records if "lightning" in record.name]
    assert len(told) == 2
    assert f"'m': {sick.url} is left alone for 0." in told[0]
    assert told[1] == f"upstream 'm': {sick.url} answers again"


async def test_calls_wait_for_a_lone_server_that_is_soon_back(servers: Servers, opened: Opened) -> None:
    async with servers(lambda place: BAD if place < 5 else GOOD) as (server,):
        policy = msgspec.structs.replace(IMPATIENT, tries=5, trip_after=5, longest_wait_s=5.0)
        async with opened(server.url, policy=policy) as model:
            with pytest.raises(ApiError, match="answered 503"):
                await ask(model)
            assert model.status().open_breakers == 1
            assert await asyncio.gather(*(ask(model, f"r{number}") for number in range(5))) == ["good"] * 5
            assert model.status().open_breakers == 0


async def test_calls_are_refused_while_a_lone_server_stays_down(servers: Servers, opened: Opened) -> None:
    async with servers(bad) as (server,):
        policy = msgspec.structs.replace(
            IMPATIENT, trip_after=3, longest_wait_s=0.05, cooldown_s=60.0, longest_cooldown_s=60.0
        )
        async with opened(server.url, policy=policy) as model:
            with pytest.raises(ApiError, match="answered 503"):
                await ask(model)
            for _ in range(2):  # the first waits, the second is refused at once
                with pytest.raises(ApiError, match="all 1 servers of this model keep failing") as caught:
                    await ask(model)
                assert (caught.value.status, caught.value.fault) == (503, "upstream_down")
                assert 29 <= int(caught.value.retry_after) <= 60
                assert server.url not in caught.value.message
            assert len(server.requests) == 3
            assert model.status().waiting == 0


async def test_waiting_calls_are_refused_when_the_last_server_goes_down(
    servers: Servers, opened: Opened
) -> None:
    async with servers(bad) as (server,):
        policy = msgspec.structs.replace(
            IMPATIENT, tries=1, trip_after=3, longest_wait_s=0.05, cooldown_s=60.0, longest_cooldown_s=60.0
        )
        async with opened(server.url, policy=policy, max_concurrency=1) as model:
            outcomes: list[Any] = await asyncio.gather(
                *(ask(model, f"r{number}") for number in range(9)), return_exceptions=True
            )
    assert Counter(outcome.fault for outcome in outcomes) == {"upstream_error": 3, "upstream_down": 6}


async def test_a_model_with_more_servers_than_tries_asks_each(servers: Servers, opened: Opened) -> None:
    async with servers(*[bad] * 5, good) as farm:
        urls = [one.url for one in farm]
        async with opened(*urls, policy=msgspec.structs.replace(IMPATIENT, tries=1)) as model:
            assert [await ask(model, f"r{number}") for number in range(4)] == ["good"] * 4


async def test_the_scripted_faults_of_one_server_never_reach_an_agent_that_has_two(opened: Opened) -> None:
    faults = [ScriptedFault(status=status) for status in (500, 502, 503, 429, 0)]
    with ScriptedLLM(lambda request: faults[len(broken.requests) % 5]) as broken, ScriptedLLM() as other:
        async with opened(broken.base_url, other.base_url) as model:
            texts = await asyncio.gather(*(ask(model, f"r{number}") for number in range(50)))
        assert texts == ["ok"] * 50
        assert broken.requests


async def test_servers_can_be_replaced_between_calls(servers: Servers, opened: Opened) -> None:
    async with servers(good, good) as (first, second), opened(first.url) as model:
        await ask(model)
        model.assign([second.url])
        await ask(model)
        assert [server.url for server in model.status().servers] == [second.url]
    assert [len(one.requests) for one in (first, second)] == [1, 1]


async def test_calls_in_flight_at_a_server_that_goes_end_as_they_would_have(opened: Opened) -> None:
    hold = ScriptedAnswer(text="held", hold_after=0)
    with ScriptedLLM(lambda _: hold) as first, ScriptedLLM() as second:
        async with opened(first.base_url) as model:
            asked = asyncio.create_task(ask(model))
            await until(lambda: len(first.requests) == 1)
            model.assign([second.base_url])
            assert await ask(model) == "ok"  # from the other one, meanwhile
            model.assign([first.base_url, second.base_url])
            model.assign([second.base_url])  # back, and gone again
            assert not asked.done()
            first.let_go()
            assert await asked == "held"


async def test_a_killed_server_that_is_started_again_serves_again(servers: Servers, opened: Opened) -> None:
    async with servers(good) as (server,):
        policy = msgspec.structs.replace(IMPATIENT, tries=20, backoff_s=0.02, longest_wait_s=2.0)
        async with opened(server.url, policy=policy) as model:
            assert await ask(model) == "good"
            await server.kill()
            waiting = asyncio.create_task(ask(model))
            await until(lambda: model.status().retries > 0)
            again = RawServer(good, port=server.port)
            await again.start()
            try:
                assert await waiting == "good"
            finally:
                await again.kill()
