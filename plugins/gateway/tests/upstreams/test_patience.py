from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from upstreams_bench import (
    HELLO,
    IMPATIENT,
    Opened,
    Servers,
    answer,
    ask,
    event_stream,
    gather,
    reply,
    route,
    until,
)

from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams import HttpModel, HttpPolicy

GOOD = (reply(answer("good")), "keep")
FIRST = b"data: " + answer("a") + b"\n\n"


def patience(**changes: Any) -> HttpPolicy:
    return msgspec.structs.replace(IMPATIENT, **changes)


def after(wait: str, *, status: int = 429) -> tuple[bytes, str]:
    return reply(b"{}", status=status, headers=f"Retry-After: {wait}\r\n"), "keep"


async def waits(monkeypatch: pytest.MonkeyPatch, run: Any) -> list[float]:
    """The waits between tries while `run` runs, none of which takes any time."""
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(0)

    monkeypatch.setattr("lightning_plugin_gateway.upstreams._http.asyncio.sleep", sleep)
    await run
    return waited


async def test_waits_are_random_from_nothing_up_to_a_bound_that_doubles(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    async with servers(lambda place: GOOD if place % 6 == 5 else (reply(b"", status=502), "keep")) as (
        server,
    ):
        policy = patience(tries=6, backoff_s=1.0, longest_wait_s=5.0, trip_after=99, trip_calls=999)
        upstream = HttpUpstream(base_url=server.url)
        for seed in range(30):
            model = HttpModel(upstream, policy=policy, rng=random.Random(seed))
            seen.append(await waits(monkeypatch, ask(model)))
            await model.stop()
    bounds = [1.0, 2.0, 4.0, 5.0, 5.0]
    for place, bound in enumerate(bounds):
        found = [each[place] for each in seen]
        assert max(found) <= bound
        assert min(found) < 0.2 * bound < 0.8 * bound < max(found)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(
    servers: Servers, opened: Opened, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async with (
        servers([after("3", status=status), GOOD]) as (server,),
        opened(server.url, policy=patience(longest_wait_s=5.0)) as model,
    ):
        (waited,) = await waits(monkeypatch, ask(model))
    assert 3.0 <= waited <= 3.0 + IMPATIENT.backoff_s


async def test_a_date_to_retry_after_is_honoured(
    servers: Servers, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    async with (
        servers([after(when), GOOD]) as (server,),
        opened(server.url, policy=patience(longest_wait_s=200.0, total_s=900.0)) as model,
    ):
        (waited,) = await waits(monkeypatch, ask(model))
    assert 60 < waited < 101


@pytest.mark.parametrize("told", ["soon", "-1", "1e9", ""])
async def test_a_retry_after_that_says_nothing_is_ignored(
    servers: Servers, opened: Opened, told: str
) -> None:
    async with servers([after(told), GOOD]) as (server,), opened(server.url) as model:
        assert await ask(model) == "good"


@pytest.mark.parametrize("told", ["9" * 500, "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_the_longest_retry_after_is_a_day(servers: Servers, opened: Opened, told: str) -> None:
    async with servers([after(told)]) as (server,), opened(server.url) as model:
        with pytest.raises(ApiError) as caught:
            await ask(model)
    assert caught.value.retry_after == "86400"


async def test_a_server_that_hangs_is_left_alone(servers: Servers, opened: Opened) -> None:
    async with (
        servers(lambda _: (b"", "stall"), lambda _: GOOD) as (stuck, well),
        opened(
            stuck.url, well.url, policy=patience(first_byte_s=0.3, trip_after=2, cooldown_s=60.0)
        ) as model,
    ):
        outcomes: Any = await asyncio.gather(
            *(ask(model, f"r{number}") for number in range(20)), return_exceptions=True
        )
        failed = [outcome for outcome in outcomes if outcome != "good"]
        assert {each.fault for each in failed} == {"timeout"}
        assert len(failed) == len(stuck.requests)
        assert [await ask(model, f"r{number}") for number in range(20)] == ["good"] * 20


async def test_a_wait_longer_than_the_policys_is_left_to_the_client(servers: Servers, opened: Opened) -> None:
    async with servers([after("60")]) as (server,), opened(server.url) as model:
        with pytest.raises(ApiError) as caught:
            await ask(model)
    assert (caught.value.status, caught.value.retry_after) == (429, "60")


async def test_no_try_is_begun_that_could_not_end_in_time(servers: Servers, opened: Opened) -> None:
    async with (
        servers([after("1")]) as (server,),
        opened(server.url, policy=patience(longest_wait_s=9)) as model,
    ):
        with pytest.raises(ApiError) as caught:
            await ask(model, deadline=time.monotonic() + 0.5)
        assert caught.value.status == 429


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], ids=["nothing", "a head"]
)
async def test_an_answer_that_does_not_begin_is_given_up(
    servers: Servers, opened: Opened, sent: bytes, stream: bool
) -> None:
    async with (
        servers([(sent, "stall")]) as (server,),
        opened(server.url, policy=patience(first_byte_s=0.05)) as model,
    ):
        with pytest.raises(ApiError, match=r"not a byte in 0\.05 s") as caught:
            await (gather(model.stream("chat", HELLO, route=route())) if stream else ask(model))
        assert (caught.value.status, caught.value.fault) == (504, "timeout")
        await asyncio.wait_for(server.left.wait(), 5)
        assert model.status().servers[0].failures == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_stops_midway_is_given_up(
    servers: Servers, opened: Opened, stream: bool
) -> None:
    sent = event_stream(FIRST, close=False) if stream else reply(answer("good"))[:-3]
    async with (
        servers([(sent, "stall")]) as (server,),
        opened(server.url, policy=patience(silence_s=0.05, first_byte_s=60.0)) as model,
    ):
        with pytest.raises(ApiError, match=r"not a byte in 0\.05 s") as caught:
            await (gather(model.stream("chat", HELLO, route=route())) if stream else ask(model))
        assert caught.value.fault == "timeout"
        await asyncio.wait_for(server.left.wait(), 5)
        assert len(server.requests) == 1


async def test_a_client_that_reads_slowly_is_not_taken_for_a_silent_upstream(
    servers: Servers, opened: Opened
) -> None:
    async with (
        servers([(event_stream(FIRST, FIRST, b"data: [DONE]\n\n"), "keep")]) as (server,),
        opened(server.url, policy=patience(silence_s=0.02)) as model,
    ):
        seen = []
        async for event in model.stream("chat", HELLO, route=route()):
            seen.append(event)
            await asyncio.sleep(0.06)
    assert len(seen) == 2


async def test_an_upstream_that_falls_silent_behind_a_slow_client_is_given_up(
    servers: Servers, opened: Opened
) -> None:
    policy = patience(silence_s=0.03, first_byte_s=60.0, total_s=60.0)
    async with (
        servers([(event_stream(FIRST, close=False), "more")]) as (server,),
        opened(server.url, policy=policy) as model,
    ):
        stream = model.stream("chat", HELLO, route=route())
        await anext(stream)
        server.go.set()
        await anext(stream)
        await asyncio.sleep(0.1)
        with pytest.raises(ApiError, match="fell silent"):
            await asyncio.wait_for(anext(stream), 5)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_ends_at_its_deadline_wherever_it_is(
    servers: Servers, opened: Opened, stream: bool, begun: bool
) -> None:
    sent = event_stream(FIRST, close=False) if stream else reply(answer("good"))[:-3]
    async with servers([(sent if begun else b"", "stall")]) as (server,), opened(server.url) as model:
        deadline = time.monotonic() + 0.1
        timed = route(deadline=deadline)
        with pytest.raises(ApiError, match="within the time") as caught:
            await (
                gather(model.stream("chat", HELLO, route=timed)) if stream else ask(model, deadline=deadline)
            )
        assert (caught.value.status, caught.value.fault) == (504, "timeout")
        await asyncio.wait_for(server.left.wait(), 5)
        status = model.status()
    assert (status.failures, status.servers[0].failures) == (1, 0)  # its server is not to blame


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancelled_call_ends_at_the_server_and_says_nothing_about_it(
    servers: Servers, opened: Opened, begun: bool
) -> None:
    async with (
        servers([(reply(answer("good"))[:-3] if begun else b"", "stall")]) as (server,),
        opened(server.url) as model,
    ):
        call = asyncio.create_task(ask(model))
        await until(lambda: server.in_flight > 0)
        call.cancel()
        await asyncio.wait_for(server.left.wait(), 5)
        assert (model.status().in_flight, model.status().servers[0].failures) == (0, 0)


async def test_a_stream_that_is_cancelled_before_its_first_event_ends_at_the_server(
    servers: Servers, opened: Opened
) -> None:
    async with (
        servers([(event_stream(b": waiting\n\n", close=False), "stall")]) as (server,),
        opened(server.url) as model,
    ):
        stream = model.stream("chat", HELLO, route=route())
        call = asyncio.ensure_future(anext(stream))
        await until(lambda: server.in_flight > 0)
        for _ in range(20):  # until the head of the answer is read
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
        await asyncio.wait_for(server.left.wait(), 5)
        assert model.status().in_flight == 0


async def test_a_closed_stream_ends_at_the_server(servers: Servers, opened: Opened) -> None:
    async with (
        servers([(event_stream(FIRST, close=False), "stall")]) as (server,),
        opened(server.url) as model,
    ):
        stream = model.stream("chat", HELLO, route=route())
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(server.left.wait(), 5)
        assert model.status().in_flight == 0


async def test_nothing_is_tried_again_once_an_event_was_handed_out(servers: Servers, opened: Opened) -> None:
    async with (
        servers([(event_stream(FIRST, close=False), "reset")]) as (server,),
        opened(server.url) as model,
    ):
        stream = model.stream("chat", HELLO, route=route())
        assert await anext(stream)
        with pytest.raises(ApiError, match="closed the connection") as caught:
            await anext(stream)
        assert (caught.value.fault, len(server.requests)) == ("upstream_closed", 1)
        assert model.status().servers[0].failures == 1


async def test_a_stream_that_broke_before_its_first_event_is_tried_again(
    servers: Servers, opened: Opened
) -> None:
    broken = (event_stream(b": waiting\n\ndata: {", close=False), "reset")
    whole = (event_stream(FIRST, b"data: [DONE]\n\n"), "keep")
    async with servers([broken, whole]) as (server,), opened(server.url) as model:
        assert len([one async for one in model.stream("chat", HELLO, route=route())]) == 1
        assert (len(server.requests), model.status().retries) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tries": 0}, "tries is 0"),
        ({"cooldown_s": 0.0}, "cooldown_s is 0.0"),
        ({"trip_share": 1.5}, "is 1.5"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        HttpPolicy(**changes)
