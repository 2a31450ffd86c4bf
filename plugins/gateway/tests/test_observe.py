from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from agentlightning.credentials import KeyRing
from agentlightning.errors import LimitExceeded, StoreUnavailable
from agentlightning.gateway import GatewayConfig, Sampling
from agentlightning.store import SpanQuery
from agentlightning.testing import ScriptedAnswer, ScriptedFault
from agentlightning.types import AttemptStatus, Mode, RolloutStatus
from lightning_plugin_gateway import _live

Serve = Callable[..., AbstractAsyncContextManager[Any]]
SECRET = "a secret of the tests"
HELLO = [{"role": "user", "content": "hello"}]
OBSERVE = GatewayConfig(observe=True)


def observing(serve: Serve, script: Any = (), **options: Any) -> Any:
    return serve(script, config=options.pop("config", OBSERVE), keys=KeyRing(SECRET), **options)


async def live(bench: Any) -> list[Any]:
    page = await bench.store.rollouts.list(limit=100)
    return [rollout for rollout in page.items if rollout.id.startswith("live-")]


async def until(bench: Any, count: int) -> list[Any]:
    """The live rollouts, once there are that many."""
    after = 0
    while len(found := await live(bench)) < count:
        after = (await bench.store.rollouts.completions(after=after, wait_s=10))[-1].cursor
    return found


async def test_a_live_call_is_a_finished_rollout_with_one_attempt_and_one_span(serve: Serve) -> None:
    async with observing(serve, [ScriptedAnswer(text="one"), ScriptedAnswer(text="two")]) as bench:
        async with bench.sdk(SECRET) as sdk:
            await sdk.chat.completions.create(model="m", messages=HELLO)
            stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
            assert [chunk async for chunk in stream]
        first, second = await live(bench)
        (attempt,) = await bench.store.rollouts.attempts([first.id])
        page = await bench.store.spans.page(SpanQuery(rollout_ids=(first.id,)))
        assert await bench.store.rollouts.lease("somebody", limit=10) == []
    (span,) = page.items
    assert (first.status, second.status) == (RolloutStatus.SUCCEEDED, RolloutStatus.SUCCEEDED)
    assert (first.task, first.output["content"], second.output["content"]) == (HELLO, "one", "two")
    assert (attempt.status, attempt.id) == (AttemptStatus.SUCCEEDED, span.attempt_id)
    assert (span.sequence, span.late, span.tokens[0].incomplete) == (1, False, "")


async def test_both_headers_carry_the_servers_key_and_sampling_is_left_alone(serve: Serve) -> None:
    config = GatewayConfig(observe=True, sampling={Mode.TRAIN: Sampling(temperature=1.0)}, max_calls=1)
    async with observing(serve, config=config) as bench, aiohttp.ClientSession() as http:
        url = bench.gateway.base_url + "/v1/chat/completions"
        for headers in ({"Authorization": f"Bearer {SECRET}"}, {"x-api-key": SECRET}):
            async with http.post(url, json={"model": "m", "messages": HELLO}, headers=headers) as response:
                assert response.status == 200
        assert len(await live(bench)) == 2
        assert "temperature" not in bench.llm.requests[0].json


async def test_a_live_call_that_fails_or_is_left_is_a_failed_rollout(serve: Serve) -> None:
    async with observing(serve, [ScriptedFault(status=400), ScriptedAnswer(hold_after=0)]) as bench:
        async with bench.sdk(SECRET) as sdk:
            with pytest.raises(openai.BadRequestError):
                await sdk.chat.completions.create(model="m", messages=HELLO)
            call = asyncio.create_task(sdk.chat.completions.create(model="m", messages=HELLO))
            await asyncio.to_thread(bench.llm.wait_held)
            call.cancel()
            await asyncio.to_thread(bench.llm.wait_left)
        found = await until(bench, 2)
    assert {rollout.status for rollout in found} == {RolloutStatus.FAILED}
    assert {rollout.failure.kind for rollout in found} == {"infrastructure", "cancelled"}


async def test_a_marked_retry_of_a_live_call_is_not_a_new_rollout(serve: Serve) -> None:
    async with observing(serve, [ScriptedAnswer(text="once")]) as bench, bench.sdk(SECRET) as sdk:
        for mark in ({}, {"x-stainless-retry-count": "1"}):
            answer = await sdk.chat.completions.create(model="m", messages=HELLO, extra_headers=mark)
            assert answer.choices[0].message.content == "once"
        assert len(await live(bench)) == 1


class Away:
    """A store that cannot load for a while."""

    def __init__(self, store: Any, error: Exception | None = None) -> None:
        self._store = store
        self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load(self, records: Any) -> Any:
        if self.error:
            raise self.error
        return await self._store.load(records)


async def test_live_traffic_goes_on_while_the_store_is_away_and_is_recorded_afterwards(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_live, "_AGAIN_S", 0.02)
    wrapped: list[Away] = []

    def wrap(store: Any) -> Any:
        wrapped.append(Away(store, StoreUnavailable("away")))
        return wrapped[0]

    async with observing(serve, wrap=wrap) as bench, bench.sdk(SECRET) as sdk:
        for _ in range(5):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        assert await live(bench) == []
        wrapped[0].error = None
        await until(bench, 5)
    assert "kept in memory while the store is away" in caplog.text


async def test_what_does_not_fit_into_memory_or_is_refused_is_dropped_counted_and_told(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_live, "_MOST_WAITING", 3)
    monkeypatch.setattr(_live, "_AGAIN_S", 0.02)
    wrapped: list[Away] = []

    def wrap(store: Any) -> Any:
        wrapped.append(Away(store, StoreUnavailable("away")))
        return wrapped[0]

    async with observing(serve, wrap=wrap) as bench, bench.sdk(SECRET) as sdk:
        for _ in range(8):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        status = bench.gateway.live
        assert (status.recorded, status.waiting, status.dropped) == (0, 3, 5)
        wrapped[0].error = LimitExceeded("too large")
        while bench.gateway.live.waiting:
            await bench.store.statistics()
        assert bench.gateway.live.dropped == 8
        wrapped[0].error = None
        await sdk.chat.completions.create(model="m", messages=HELLO)
        assert bench.gateway.live.recorded == len(await live(bench)) == 1
    assert "live calls were dropped" in caplog.text


async def test_an_answer_waits_for_its_record_no_longer_than_its_patience(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "PATIENCE_S", 0.05)
    gate = asyncio.Event

    class Stuck(Away):
        async def load(self, records: Any) -> Any:
            await gate().wait()

    async with observing(serve, wrap=Stuck) as bench, bench.sdk(SECRET) as sdk:
        for _ in range(3):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        assert bench.gateway.live.waiting == 3


async def test_the_anthropic_sdk_is_a_live_client_too(serve: Serve) -> None:
    async with (
        observing(serve, [ScriptedAnswer(text="hey")]) as bench,
        anthropic.AsyncAnthropic(base_url=bench.gateway.base_url, api_key=SECRET, max_retries=0) as sdk,
    ):
        message = await sdk.messages.create(model="m", max_tokens=9, messages=HELLO)
        assert message.content[0].text == "hey"
        (rollout,) = await live(bench)
        assert rollout.created_at <= time.time()
