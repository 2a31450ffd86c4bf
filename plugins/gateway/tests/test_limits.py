from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai
import pytest

from agentlightning.gateway import GatewayConfig, HttpUpstream, Price
from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from agentlightning.types import SpanStatus

Serve = Callable[..., AbstractAsyncContextManager[Any]]
HELLO = [{"role": "user", "content": "hello"}]
TOKENS = 8 + 3  # of the prompt and of the answer `ok`


async def ask(sdk: openai.AsyncOpenAI, **options: Any) -> Any:
    return await sdk.chat.completions.create(model="m", messages=HELLO, **options)


async def drain(sdk: openai.AsyncOpenAI) -> list[Any]:
    return [chunk async for chunk in await ask(sdk, stream=True)]


@pytest.mark.parametrize("usage", [True, False])
async def test_tokens_of_an_attempt_are_limited_also_where_no_usage_is_told(
    serve: Serve, usage: bool
) -> None:
    config = GatewayConfig(max_tokens=TOKENS + 1)
    async with (
        serve(lambda _: ScriptedAnswer(text="ok", usage=usage), config=config) as bench,
        bench.sdk() as sdk,
    ):
        for _ in range(2):
            await ask(sdk)
        for _ in range(2):
            with pytest.raises(openai.RateLimitError, match=f"taken {2 * TOKENS} of its {TOKENS + 1} tokens"):
                await ask(sdk)
        faults = [span.attributes.get("error.type") for span in await bench.spans()]
        async with bench.sdk(bench.key("r2")) as other:
            await ask(other)
    assert faults == [None, None, "too_many_tokens"]


async def test_the_cost_of_an_attempt_is_limited_by_the_upstreams_price(serve: Serve) -> None:
    with ScriptedLLM() as llm:
        price = Price(prompt=1e6, response=2e6)
        upstream = HttpUpstream(base_url=llm.base_url, price=price)
        async with (
            serve(upstreams={"m": upstream}, config=GatewayConfig(max_cost=14.0)) as bench,
            bench.sdk() as sdk,
        ):
            stream = await ask(sdk, stream=True)
            assert [chunk async for chunk in stream]
            with pytest.raises(openai.RateLimitError, match="spent 14 of the 14"):
                await ask(sdk)


@pytest.mark.parametrize("hold_after", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_takes_too_long_ends_and_keeps_what_there_is(
    serve: Serve, stream: bool, hold_after: int
) -> None:
    answer = ScriptedAnswer(text="abcdefgh", chunk_chars=2, hold_after=hold_after if stream else 0)
    config = GatewayConfig(call_timeout_s=0.3)
    async with serve([answer], config=config) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.APIError, match="call_timeout_s"):
            await (drain(sdk) if stream else ask(sdk))
        await asyncio.to_thread(bench.llm.wait_left)
        (span,) = await bench.spans()
    assert (span.status, span.attributes["error.type"]) == (SpanStatus.ERROR, "timeout")
    if stream and hold_after:
        assert span.attributes["gen_ai.output.messages"][0]["content"] == "abcd"
        assert "call_timeout_s" in span.tokens[0].incomplete


async def test_a_pause_does_not_count_towards_the_time_a_call_may_take(serve: Serve) -> None:
    async with serve(config=GatewayConfig(call_timeout_s=0.4)) as bench, bench.sdk() as sdk:
        async with bench.gateway.paused():
            call = asyncio.create_task(ask(sdk))
            await asyncio.sleep(0.6)
        assert (await call).choices[0].message.content == "ok"
