from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import openai
import pytest

from agentlightning.engine import ChatChunk, ChatCompletion, ChatRequest
from agentlightning.errors import ConfigError, EngineError
from agentlightning.gateway import GatewayConfig, HttpUpstream, Sampling
from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from agentlightning.types import Mode, SpanStatus

Serve = Callable[..., AbstractAsyncContextManager[Any]]
HELLO = [{"role": "user", "content": "hello"}]


class InProcessEngine:
    """Answers `hey`, or raises; `hold` keeps it sampling until it is set."""

    model = "tiny"

    def __init__(self, error: Exception | None = None, *, endpoints: tuple[str, ...] = ()) -> None:
        self.version = 4
        self.endpoints = endpoints
        self.error = error
        self.requests: list[ChatRequest] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.cancelled = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        self.requests.append(request)
        if self.error:
            raise self.error
        await self._sample()
        logprobs = {"content": [{"token": "h", "logprob": -0.5}, {"token": "ey", "logprob": -1.5}]}
        message = {"role": "assistant", "content": "hey"}
        return {
            "id": "chatcmpl-e",
            "object": "chat.completion",
            "created": 0,
            "model": "tiny",
            "policy_version": self.version,
            "prompt_token_ids": [1, 2],
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "stop",
                    "token_ids": [3, 4],
                    "logprobs": logprobs,
                }
            ],
        }

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        whole = await self.chat(request)
        (choice,) = whole["choices"]
        frame = {"id": "chatcmpl-e", "object": "chat.completion.chunk", "created": 0, "model": "tiny"}
        for place in range(2):
            part = {
                "index": 0,
                "delta": {"content": ("h", "ey")[place]},
                "token_ids": [choice["token_ids"][place]],
                "logprobs": {"content": [choice["logprobs"]["content"][place]]},
                "finish_reason": "stop" if place else None,
            }
            first = {} if place else {"prompt_token_ids": whole["prompt_token_ids"]}
            last = {"usage": {"prompt_tokens": 2, "completion_tokens": 2}, "policy_version": self.version}
            yield {**frame, **first, "choices": [part], **(last if place else {})}

    async def _sample(self) -> None:
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_in_process_is_called_and_its_version_stamped(serve: Serve, stream: bool) -> None:
    engine = InProcessEngine()
    async with serve(upstreams={"*": engine}) as bench, bench.sdk(bench.key(seed=1)) as sdk:
        result = await sdk.chat.completions.create(model="anything", messages=HELLO, stream=stream)
        if stream:
            chunks = [chunk async for chunk in result]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hey"
            seen = [chunk.to_dict() for chunk in chunks]
        else:
            assert result.choices[0].message.content == "hey"
            seen = [result.to_dict()]
        (span,) = await bench.spans()
    assert not any("policy_version" in part or "prompt_token_ids" in part for part in seen)
    assert span.attributes["agl.policy.version"] == 4
    assert span.attributes["gen_ai.request.model"] == "anything"
    (tokens,) = span.tokens
    assert (tokens.version, tokens.incomplete, tokens.finish_reason) == (4, "", "stop")
    assert (list(tokens.prompt_ids), list(tokens.response_ids)) == ([1, 2], [3, 4])
    assert list(tokens.response_logprobs) == [-0.5, -1.5]
    (request,) = engine.requests
    assert (request["model"], request["return_token_ids"], request["logprobs"]) == ("tiny", True, True)
    assert isinstance(request["seed"], int)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigError("prompt of 9 tokens, 8 fit"), 400, "9 tokens, 8 fit"),
        (EngineError("out of memory"), 502, "out of memory"),
        (KeyError("secret detail"), 502, "KeyError"),
    ],
)
async def test_an_engines_errors_are_told(
    serve: Serve, error: Exception, status: int, told: str, stream: bool
) -> None:
    async with serve(upstreams={"*": InProcessEngine(error)}) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.APIStatusError, match=told) as caught:
            await sdk.chat.completions.create(model="tiny", messages=HELLO, stream=stream)
        (span,) = await bench.spans()
    assert caught.value.status_code == status
    assert "secret" not in str(caught.value)
    assert span.status is SpanStatus.ERROR


async def test_an_engine_is_told_that_the_client_has_left(serve: Serve) -> None:
    engine = InProcessEngine()
    engine.hold.clear()
    async with serve(upstreams={"*": engine}) as bench, bench.sdk() as sdk:
        call = asyncio.create_task(sdk.chat.completions.create(model="tiny", messages=HELLO))
        while not engine.requests:
            await sdk.models.list()
        call.cancel()
        await bench.gateway.release(bench.attempt())
        (span,) = await bench.spans()
    assert engine.cancelled == 1
    assert span.attributes["agl.cancelled"] is True


async def test_an_engine_behind_a_url_is_called_there_and_its_version_believed(serve: Serve) -> None:
    answers = [ScriptedAnswer(text="one", policy_version=9), ScriptedAnswer(text="two")]
    with ScriptedLLM(answers) as llm:
        engine = InProcessEngine(endpoints=(llm.base_url,))
        async with serve(upstreams={"*": engine}) as bench, bench.sdk() as sdk:
            for _ in answers:
                await sdk.chat.completions.create(model="x", messages=HELLO)
            assert [span.tokens[0].version for span in (await bench.spans())] == [9, 4]
        assert [request.json["model"] for request in llm.requests] == ["tiny", "tiny"]


@pytest.mark.parametrize("mode", list(Mode))
async def test_the_policy_is_sampled_as_it_is_in_training_unless_an_override_says_otherwise(
    serve: Serve, mode: Mode
) -> None:
    config = GatewayConfig(
        on_policy=Sampling(temperature=1.0, top_p=1.0), sampling={Mode.TRAIN: Sampling(top_p=0.9)}
    )
    with ScriptedLLM() as llm:
        upstreams = {
            "served": InProcessEngine(endpoints=(llm.base_url,)),
            "judge": HttpUpstream(base_url=llm.base_url),
        }
        async with (
            serve(upstreams=upstreams, config=config) as bench,
            bench.sdk(bench.key(mode=mode)) as sdk,
        ):
            for model in upstreams:
                await sdk.chat.completions.create(model=model, messages=HELLO, temperature=0.0)
        served, judge = (request.json for request in llm.requests)
    trains = mode is Mode.TRAIN
    assert served["temperature"] == (1.0 if trains else 0.0)
    assert judge["temperature"] == 0.0
    assert served.get("top_p") == judge.get("top_p") == (0.9 if trains else None)


async def test_log_probabilities_that_are_not_finite_mark_the_call_incomplete(serve: Serve) -> None:
    class Broken(InProcessEngine):
        async def chat(self, request: ChatRequest) -> ChatCompletion:
            completion = await super().chat(request)
            completion["choices"][0]["logprobs"]["content"][0]["logprob"] = float("nan")
            return completion

    async with serve(upstreams={"*": Broken()}) as bench, bench.sdk() as sdk:
        await sdk.chat.completions.create(model="x", messages=HELLO)
        assert (await bench.spans())[0].tokens[0].incomplete == "log-probabilities are not finite"
        assert msgspec.json.encode((await bench.spans())[0])
