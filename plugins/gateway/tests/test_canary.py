from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from agentlightning.engine import ChatChunk, ChatCompletion, ChatRequest
from agentlightning.errors import EngineError

Serve = Callable[..., AbstractAsyncContextManager[Any]]


class MovingEngine:
    """Its answer to anything depends on its version."""

    model = "tiny"
    endpoints = ()

    def __init__(self) -> None:
        self.version = 0
        self.requests: list[ChatRequest] = []
        self.answers = {0: ([1, 2, 3], [-1.0, -1.0, -1.0]), 1: ([1, 2, 4], [-0.5, -1.25, -9.0])}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        self.requests.append(request)
        if self.version not in self.answers:
            raise EngineError("no such version")
        ids, logprobs = self.answers[self.version]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "x"},
            "finish_reason": "stop",
            "token_ids": ids,
            "logprobs": {"content": [{"token": "t", "logprob": value} for value in logprobs]},
        }
        return {"id": "c", "model": "tiny", "choices": [choice], "prompt_token_ids": [1]}

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        raise NotImplementedError
        yield {}


async def publish(bench: Any, engine: MovingEngine, version: int) -> None:
    async with bench.gateway.paused():
        engine.version = version
    async with bench.gateway.paused():  # drains the canary's call
        pass


async def test_after_each_publish_the_change_of_the_samplers_log_probabilities_is_recorded(
    serve: Serve,
) -> None:
    engine = MovingEngine()
    async with serve(upstreams={"*": engine}) as bench:
        await publish(bench, engine, 1)
        before, after = bench.gateway.canaries
        assert (before.version, before.change, after.version, after.common, after.change) == (
            0,
            None,
            1,
            2,
            0.375,
        )
        assert engine.requests[0]["temperature"] == 0.0
        await publish(bench, engine, 1)
        assert len(bench.gateway.canaries) == len(engine.requests) == 2


async def test_a_canary_that_fails_holds_nothing_up(serve: Serve) -> None:
    engine = MovingEngine()
    async with serve(upstreams={"*": engine}) as bench:
        await publish(bench, engine, 7)
        assert [score.version for score in bench.gateway.canaries] == [0]
        await publish(bench, engine, 1)
        assert [score.version for score in bench.gateway.canaries] == [0, 1]


async def test_a_model_of_unknown_version_has_no_canary(serve: Serve) -> None:
    async with serve() as bench:
        async with bench.gateway.paused():
            pass
        assert (bench.gateway.canaries, bench.llm.requests) == ((), [])
