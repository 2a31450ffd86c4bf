from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import aiohttp
import openai
import pytest

from agentlightning.gateway import GatewayConfig
from agentlightning.testing import ScriptedAnswer, ScriptedFault

Serve = Callable[..., AbstractAsyncContextManager[Any]]
HELLO = [{"role": "user", "content": "hello"}]
COMMENT = b": keep-alive\n\n"
OFTEN = GatewayConfig(keepalive_s=0.05)


def post(bench: Any, session: aiohttp.ClientSession) -> Any:
    return session.post(
        bench.gateway.base_url + "/v1/chat/completions",
        json={"model": "m", "messages": HELLO, "stream": True},
        headers={"Authorization": f"Bearer {bench.key()}"},
    )


async def drain(sdk: openai.AsyncOpenAI) -> list[Any]:
    stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
    return [chunk async for chunk in stream]


async def test_a_paused_stream_is_kept_alive_and_goes_on(serve: Serve) -> None:
    async with (
        serve([ScriptedAnswer(text="after")], config=OFTEN) as bench,
        aiohttp.ClientSession() as session,
        AsyncExitStack() as pause,
    ):
        await pause.enter_async_context(bench.gateway.paused())
        async with post(bench, session) as response:  # the head comes with the first comment
            assert await response.content.readexactly(2 * len(COMMENT)) == COMMENT * 2
            assert bench.llm.requests == []
            await pause.aclose()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        assert (await bench.spans())[0].tokens[0].incomplete == ""


async def test_a_stream_that_waits_for_its_first_token_is_kept_alive_and_nothing_is_lost(
    serve: Serve,
) -> None:
    answer = ScriptedAnswer(text="late", hold_after=0)
    async with serve([answer], config=OFTEN) as bench, aiohttp.ClientSession() as session:
        async with post(bench, session) as response:
            assert response.status == 200
            assert response.headers["x-accel-buffering"] == "no"
            assert await response.content.readexactly(len(COMMENT)) == COMMENT
            bench.llm.let_go()
            rest = await response.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert (await bench.spans())[0].tokens[0].incomplete == ""


async def test_the_sdk_reads_over_comments_and_learns_of_a_failure_after_them(serve: Serve) -> None:
    config = GatewayConfig(keepalive_s=0.05, pause_timeout_s=0.3)
    async with serve(config=config) as bench, bench.sdk() as sdk, bench.gateway.paused():
        with pytest.raises(openai.APIError, match="paused for longer"):
            await drain(sdk)
        assert (await bench.spans())[0].attributes["error.type"] == "paused"


async def test_a_failure_before_the_first_comment_has_its_status(serve: Serve) -> None:
    async with serve([ScriptedFault(status=404)]) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)


async def test_a_client_that_leaves_while_it_is_kept_alive_is_recorded_as_cancelled(serve: Serve) -> None:
    async with (
        serve([ScriptedAnswer(hold_after=0)], config=OFTEN) as bench,
        aiohttp.ClientSession() as session,
    ):
        async with post(bench, session) as response:
            await response.content.readexactly(len(COMMENT))
        await asyncio.to_thread(bench.llm.wait_left)
        await bench.gateway.release(bench.attempt())
        assert (await bench.spans())[0].attributes["agl.cancelled"] is True
