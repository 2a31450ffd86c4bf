"""What a store refuses of a call is left out or said otherwise: the call itself is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.credentials import KeyRing
from agentlightning.gateway import GatewayConfig
from agentlightning.store import open_store
from agentlightning.testing import ScriptedAnswer
from agentlightning.types import RolloutRequest, Span, SpanSource, SpanStatus
from lightning_plugin_gateway._storable import storable

Serve = Callable[..., AbstractAsyncContextManager[Any]]
SECRET = "a secret of the tests"
HELLO = [{"role": "user", "content": "hello"}]
WIDE = 2**70
WIDE_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"maximum": WIDE}}}


async def post(bench: Any, path: str, body: Any, *, key: str = "", **headers: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key or bench.key()}", **headers}
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            bench.gateway.base_url + path, data=BytesIO(msgspec.json.encode(body)), headers=headers
        ) as response,
    ):
        return response.status, await response.json()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_with_a_number_that_no_store_takes_is_answered_and_recorded(
    serve: Serve, stream: bool
) -> None:
    async with serve([ScriptedAnswer(text="yes")]) as bench, bench.sdk() as sdk:
        answer = await sdk.chat.completions.create(
            model="m", messages=HELLO, tools=[WIDE_TOOL], stream=stream
        )
        if stream:
            assert [chunk async for chunk in answer]
        assert bench.llm.requests[0].json["tools"] == [WIDE_TOOL]
        (span,) = await bench.spans()
    (tool,) = span.attributes[semconv.TOOL_DEFINITIONS]
    assert tool["function"]["parameters"] == {"maximum": str(WIDE)}
    assert (span.status, span.tokens[0].incomplete) == (SpanStatus.OK, "")


async def test_a_live_call_that_the_store_refuses_ends_no_recording(serve: Serve) -> None:
    config = GatewayConfig(observe=True)
    async with serve(config=config, keys=KeyRing(SECRET)) as bench, bench.sdk(SECRET) as sdk:
        await sdk.chat.completions.create(model="m", messages=HELLO, tools=[WIDE_TOOL])
        for _ in range(2):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        status = bench.gateway.live
    assert (status.recorded, status.waiting, status.dropped) == (3, 0, 0)


class Raising:
    """A store that raises what no store should, while it is told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.left = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load(self, records: Any) -> Any:
        if self.left:
            self.left -= 1
            raise RuntimeError("a bug of the store")
        return await self._store.load(records)


async def test_a_bug_of_the_store_costs_one_live_call(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    config = GatewayConfig(observe=True)
    async with serve(config=config, keys=KeyRing(SECRET), wrap=Raising) as bench, bench.sdk(SECRET) as sdk:
        for _ in range(3):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        status = bench.gateway.live
    assert (status.recorded, status.dropped) == (2, 1)
    assert "a bug of the store" in caplog.text


class Forgetful:
    """A store with a bug in what the gateway asks of it before a call."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def rollouts(self) -> Any:
        raise RuntimeError("a bug of the store")


async def test_a_call_that_fails_in_the_gateway_itself_is_recorded(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(wrap=Forgetful) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(model="m", messages=HELLO)
        (span,) = await bench.spans()
    assert (caught.value.code, span.attributes[semconv.ERROR_TYPE]) == ("gateway_error", "gateway_error")
    assert "a bug of the store" in caplog.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "x" * 9 * 2**20}),
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "x" * 9 * 2**20}]}),
    ],
)
async def test_a_large_call_that_is_told_in_two_forms_is_recorded_in_one(
    serve: Serve, path: str, body: dict[str, Any]
) -> None:
    answer = ScriptedAnswer(text="yes", prompt_token_ids=(1, 2))
    async with serve([answer]) as bench:
        status, told = await post(bench, path, {"model": "m", **body})
        assert status == 200, told
        (span,) = await bench.spans()
    assert semconv.NATIVE_REQUEST not in span.attributes
    assert len(span.attributes[semconv.INPUT_MESSAGES][0]["content"]) == 9 * 2**20
    assert span.tokens[0].incomplete == ""


async def test_a_call_that_is_too_large_in_any_form_is_recorded_as_incomplete(serve: Serve) -> None:
    answer = ScriptedAnswer(text="x" * 9 * 2**20, token_ids=(1,), prompt_token_ids=(1,))
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 9 * 2**20}]}
    async with serve([answer]) as bench:
        status, _ = await post(bench, "/v1/chat/completions", body)
        (span,) = await bench.spans()
    assert status == 200
    assert "larger than what the store takes" in span.tokens[0].incomplete
    assert span.attributes[semconv.INCOMPLETE] == span.tokens[0].incomplete
    assert semconv.INPUT_MESSAGES not in span.attributes


@pytest.mark.parametrize("count", ["0", "00", "x", "-1", "1.0"])
async def test_a_count_of_retries_that_is_none_marks_no_retry(serve: Serve, count: str) -> None:
    body = {"model": "m", "messages": HELLO}
    async with serve() as bench:
        for _ in range(2):
            await post(bench, "/v1/chat/completions", body, **{"x-stainless-retry-count": count})
        assert len(await bench.spans()) == 2


async def test_a_count_of_retries_of_any_length_marks_one(serve: Serve) -> None:
    body = {"model": "m", "messages": HELLO}
    async with serve() as bench:
        for mark in ({}, {"x-stainless-retry-count": "9" * 5000}):
            status, _ = await post(bench, "/v1/chat/completions", body, **mark)
            assert status == 200
        assert len(await bench.spans()) == 1


NUMBERS = st.integers() | st.floats() | st.integers(min_value=2**62, max_value=2**80)
JSON = st.recursive(
    NUMBERS | st.none() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
)


@given(JSON, st.integers(min_value=0, max_value=300))
def test_whatever_a_call_says_can_be_stored(said: Any, levels: int) -> None:
    for _ in range(levels):
        said = [said]
    asyncio.run(_check_stored({"said": said}))


async def _check_stored(attributes: dict[str, Any]) -> None:
    async with open_store("memory://") as store:
        await store.rollouts.enqueue([RolloutRequest(task=None)])
        (lease,) = await store.rollouts.lease("w", limit=1, ttl_s=60)
        span = Span(
            rollout_id=lease.rollout.id,
            attempt_id=lease.attempt.id,
            span_id="s",
            trace_id="0" * 31 + "1",
            name="chat",
            operation="chat",
            source=SpanSource.GATEWAY,
            start_ns=1,
            end_ns=2,
            status=SpanStatus.OK,
            attributes=attributes,
        )
        refusal: ValueError | None = None
        try:
            await store.spans.append([span])
        except ValueError as error:
            refusal = error
        if refusal:
            kept = storable(span, refusal)
            assert kept is not None
            assert (await store.spans.append([kept])).stored == 1
            assert storable(kept, refusal) is None
