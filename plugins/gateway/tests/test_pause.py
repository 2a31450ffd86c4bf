from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai
import pytest

from agentlightning.errors import GatewayError
from agentlightning.gateway import GatewayConfig
from agentlightning.testing import ScriptedAnswer

Serve = Callable[..., AbstractAsyncContextManager[Any]]

HELLO = [{"role": "user", "content": "hello"}]


async def test_calls_in_flight_end_new_ones_wait_and_go_on_afterwards(serve: Serve) -> None:
    held = ScriptedAnswer(text="before", chunk_chars=1, hold_after=2)
    async with serve([held, ScriptedAnswer(text="after")]) as bench, bench.sdk() as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        await asyncio.to_thread(bench.llm.wait_held)
        paused, resume = threading.Event(), threading.Event()

        async def pause() -> None:
            async with bench.gateway.paused():
                paused.set()
                await asyncio.to_thread(resume.wait)

        elsewhere = threading.Thread(target=lambda: asyncio.run(pause()))
        elsewhere.start()
        try:
            assert not paused.wait(0.05)
            bench.llm.let_go()
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "before"
            await asyncio.to_thread(paused.wait, 10)
            call = asyncio.create_task(sdk.chat.completions.create(model="m", messages=HELLO))
            await sdk.models.list()
            await sdk.models.list()
            assert len(bench.llm.requests) == 1
        finally:
            resume.set()
        assert (await call).choices[0].message.content == "after"
        await asyncio.to_thread(elsewhere.join, 10)


async def test_a_call_that_waited_too_long_is_503_with_retry_after(serve: Serve) -> None:
    async with serve(config=GatewayConfig(pause_timeout_s=0.05)) as bench, bench.sdk() as sdk:
        async with bench.gateway.paused():
            with pytest.raises(openai.InternalServerError, match="paused") as caught:
                await sdk.chat.completions.create(model="m", messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        await sdk.chat.completions.create(model="m", messages=HELLO)
        assert [span.attributes.get("error.type") for span in (await bench.spans())] == ["paused", None]


async def test_pauses_can_overlap(serve: Serve) -> None:
    async with serve() as bench, bench.sdk() as sdk:
        async with bench.gateway.paused():
            async with bench.gateway.paused():
                pass
            call = asyncio.create_task(sdk.chat.completions.create(model="m", messages=HELLO))
            await sdk.models.list()
            assert bench.llm.requests == []
        await call


async def test_a_pause_that_cannot_drain_lets_calls_go_on(serve: Serve) -> None:
    async with serve([ScriptedAnswer(hold_after=0), ScriptedAnswer()]) as bench, bench.sdk() as sdk:
        call = asyncio.create_task(sdk.chat.completions.create(model="m", messages=HELLO))
        await asyncio.to_thread(bench.llm.wait_held)
        with pytest.raises(GatewayError, match="1 calls were still in flight"):
            async with bench.gateway.paused(drain_timeout_s=0.01):
                pass
        await sdk.chat.completions.create(model="m", messages=HELLO)
        bench.llm.let_go()
        await call


@pytest.mark.parametrize("stream", [False, True])
async def test_stopping_ends_calls_in_flight_and_records_them(serve: Serve, stream: bool) -> None:
    answer = ScriptedAnswer(text="abcdefgh", hold_after=2 if stream else 0)
    async with serve([answer]) as bench, bench.sdk() as sdk:

        async def ask() -> None:
            result = await sdk.chat.completions.create(model="m", messages=HELLO, stream=stream)
            if stream:
                assert [chunk async for chunk in result]

        call = asyncio.create_task(ask())
        await asyncio.to_thread(bench.llm.wait_held)
        await bench.gateway.stop()
        with pytest.raises(openai.APIError, match="shutting down"):
            await call
        assert [span.attributes["agl.cancelled"] for span in (await bench.spans())] == [True]
        await bench.gateway.start()
        with pytest.raises(openai.APIConnectionError):
            await sdk.chat.completions.create(model="m", messages=HELLO)


async def test_a_gateway_that_does_not_run_cannot_be_paused(serve: Serve) -> None:
    async with serve() as bench:
        await bench.gateway.stop()
        with pytest.raises(GatewayError, match="not running"):
            async with bench.gateway.paused():
                pass
        await bench.gateway.release(bench.attempt())
