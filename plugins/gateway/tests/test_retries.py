from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import openai
import pytest

from agentlightning.credentials import KeyRing
from agentlightning.gateway import GatewayConfig, HttpUpstream
from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedRequest
from agentlightning.types import Mode, Span, SpanStatus
from lightning_plugin_gateway import create_gateway

Serve = Callable[..., AbstractAsyncContextManager[Any]]

HELLO = [{"role": "user", "content": "hello"}]
MARK = {"x-stainless-retry-count": "1"}


def counting() -> Callable[[ScriptedRequest], ScriptedAnswer]:
    count = iter(range(1000))
    return lambda _: ScriptedAnswer(text=f"sample {next(count)}")


async def ask(sdk: openai.AsyncOpenAI, *, stream: bool = False, **options: Any) -> str:
    result = await sdk.chat.completions.create(model="m", messages=HELLO, stream=stream, **options)
    if stream:
        return "".join([chunk.choices[0].delta.content or "" async for chunk in result])
    return result.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
async def test_a_marked_retry_is_answered_from_the_record(serve: Serve, stream: bool) -> None:
    async with serve(counting()) as bench, bench.sdk() as sdk:
        first = await ask(sdk, stream=stream)
        again = await ask(sdk, stream=stream, extra_headers=MARK)
        assert (first, again) == ("sample 0", "sample 0")
        assert len(await bench.spans()) == len(bench.llm.requests) == 1


async def test_an_identical_body_without_the_mark_is_a_new_sample(serve: Serve) -> None:
    async with serve(counting()) as bench, bench.sdk() as sdk:
        assert [await ask(sdk), await ask(sdk)] == ["sample 0", "sample 1"]
        assert await ask(sdk, extra_headers=MARK) == "sample 1"
        assert len(await bench.spans()) == 2


async def test_a_marked_retry_of_another_attempt_or_body_is_a_new_sample(serve: Serve) -> None:
    async with serve(counting()) as bench, bench.sdk() as sdk, bench.sdk(bench.key("r2")) as other:
        assert await ask(sdk) == "sample 0"
        assert await ask(other, extra_headers=MARK) == "sample 1"
        assert await ask(sdk, temperature=0.5, extra_headers=MARK) == "sample 2"


async def test_another_process_answers_a_retry_with_the_newest_of_equal_calls_or_asks_again(
    serve: Serve,
) -> None:
    keys = KeyRing("a secret of the tests")
    async with serve(counting(), keys=keys) as bench, bench.sdk() as sdk:
        other = create_gateway(
            store=bench.store,
            upstreams={"*": HttpUpstream(base_url=bench.llm.base_url)},
            config=GatewayConfig(),
            keys=keys,
        )
        await other.start()
        try:
            there = sdk.with_options(base_url=other.base_url + "/v1")
            assert [await ask(sdk), await ask(sdk)] == ["sample 0", "sample 1"]
            assert await ask(there, extra_headers=MARK) == "sample 1"
            await bench.store.spans.append([cancelled((await bench.spans())[-1])])
            assert await ask(there, extra_headers=MARK) == "sample 2"
        finally:
            await other.stop()


def cancelled(span: Span) -> Span:
    """A later call that asked the same, whose client left."""
    return msgspec.structs.replace(span, span_id="0" * 16, sequence=0, status=SpanStatus.UNSET)


async def test_a_retry_of_a_call_in_flight_waits_for_its_answer(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text="one", hold_after=0)]) as bench, bench.sdk() as sdk:
        first = asyncio.create_task(ask(sdk))
        await asyncio.to_thread(bench.llm.wait_held)
        again = asyncio.create_task(ask(sdk, extra_headers=MARK))
        await sdk.models.list()
        bench.llm.let_go()
        assert [await first, await again] == ["one", "one"]
        assert len(bench.llm.requests) == 1


async def test_the_sdks_own_retry_of_a_failed_call_is_sampled_once(serve: Serve) -> None:
    script = [ScriptedFault(status=500), ScriptedAnswer(text="fine")]
    async with serve(script) as bench, bench.sdk(bench.key(seed=1), max_retries=2) as sdk:
        assert await ask(sdk) == "fine"
        assert [span.attributes.get("error.type") for span in (await bench.spans())] == [
            "upstream_error",
            None,
        ]
        first, second = (request.json["seed"] for request in bench.llm.requests)
        assert first == second


async def seeds(
    serve: Serve, calls: list[Any], *, seed: int | None = 5, mode: Mode = Mode.TRAIN, **options: Any
) -> list[int | None]:
    async with serve() as bench, bench.sdk(bench.key(seed=seed, mode=mode)) as sdk:
        for messages in calls:
            await sdk.chat.completions.create(model="m", messages=messages, **options)
        return [request.json.get("seed") for request in bench.llm.requests]


def turn(ident: str) -> list[dict[str, object]]:
    call = {"id": ident, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": ident, "content": "1"},
    ]


async def test_seeds_depend_on_what_is_asked_and_how_often_but_not_on_order(serve: Serve) -> None:
    other = [{"role": "user", "content": "other"}]
    first = await seeds(serve, [HELLO, HELLO, other, turn("call_a")])
    second = await seeds(serve, [turn("call_b"), other, HELLO, HELLO])
    assert len(set(first)) == 4
    assert all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in first)
    assert second == [first[3], first[2], first[0], first[1]]
    assert not set(await seeds(serve, [HELLO], seed=6)) & set(first)


async def test_a_clients_own_seed_counts_outside_training(serve: Serve) -> None:
    assert await seeds(serve, [HELLO], mode=Mode.VAL, seed=5) == await seeds(serve, [HELLO], seed=5)
    assert await seeds(serve, [HELLO], mode=Mode.TEST, extra_body={"seed": 9}) == [9]
    assert await seeds(serve, [HELLO], extra_body={"seed": 9}) == await seeds(serve, [HELLO])
    assert await seeds(serve, [HELLO], seed=None) == [None]
