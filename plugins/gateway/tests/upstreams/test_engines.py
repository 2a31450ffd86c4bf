from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from upstreams_bench import HELLO, IMPATIENT, route

from agentlightning.engine import ChatChunk, ChatCompletion, ChatRequest
from agentlightning.errors import ConfigError, EngineError
from agentlightning.gateway import AttemptGrant, HttpUpstream
from agentlightning.testing import ScriptedLLM
from agentlightning.types import Mode
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams import EngineModel, Models, ModelStatus

GRANT = AttemptGrant(rollout_id="r", attempt_id="r-1", token=1, mode=Mode.TRAIN)


class Engine:
    """Answers with its version; `stuck` keeps it sampling."""

    def __init__(self, *, error: Exception | None = None, stuck: bool = False) -> None:
        self.model = "tiny"
        self.version = 3
        self.endpoints: tuple[str, ...] = ()
        self.error = error
        self.stuck = stuck
        self.cancelled = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        if self.error:
            raise self.error
        await self._sample()
        return {"choices": [], "policy_version": self.version}

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        yield {"choices": []}
        if self.error:
            raise self.error
        await self._sample()
        yield {"choices": [], "policy_version": self.version}

    async def _sample(self) -> None:
        try:
            if self.stuck:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def ask(model: Any, *, stream: bool, wire: str = "chat", **options: Any) -> list[Any]:
    if not stream:
        return [await model.call(wire, HELLO, route=route(**options))]
    return [event async for event in model.stream(wire, {**HELLO, "stream": True}, route=route(**options))]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_in_process_answers(stream: bool) -> None:
    model = EngineModel(Engine(), policy=IMPATIENT)
    assert (await ask(model, stream=stream))[-1] == {"choices": [], "policy_version": 3}
    assert (model.name, model.version, model.wires, model.token_ids) == ("tiny", 3, {"chat"}, True)
    assert model.status() == ModelStatus(calls=1, failures=0)
    with pytest.raises(ValueError, match="not 'messages'"):
        await ask(model, stream=stream, wire="messages")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "fault", "told"),
    [
        (ConfigError("9 tokens, 8 fit"), 400, "bad_request", "9 tokens, 8 fit"),
        (EngineError("out of memory"), 502, "engine_error", "out of memory"),
        (KeyError("secret"), 502, "engine_error", "failed with KeyError"),
    ],
)
async def test_its_errors_are_told(
    error: Exception, status: int, fault: str, told: str, stream: bool
) -> None:
    model = EngineModel(Engine(error=error), policy=IMPATIENT)
    with pytest.raises(ApiError, match=told) as caught:
        await ask(model, stream=stream)
    assert (caught.value.status, caught.value.fault) == (status, fault)
    assert "secret" not in caught.value.message
    assert model.status() == ModelStatus(calls=1, failures=1)


@pytest.mark.parametrize("stream", [False, True])
async def test_its_calls_end_at_their_deadline(stream: bool) -> None:
    engine = Engine(stuck=True)
    model = EngineModel(engine, policy=IMPATIENT)
    with pytest.raises(ApiError, match="within the time") as caught:
        await ask(model, stream=stream, deadline=time.monotonic() + 0.05)
    assert (caught.value.status, caught.value.fault, engine.cancelled) == (504, "timeout", 1)
    assert model.status().in_flight == 0


async def test_its_servers_are_called_while_it_has_some() -> None:
    engine = Engine()
    model = EngineModel(engine, policy=IMPATIENT)
    with ScriptedLLM() as first, ScriptedLLM() as second:
        engine.endpoints = (first.base_url,)
        assert "completions" in model.wires
        (answer,) = await ask(model, stream=False)
        assert answer["choices"][0]["message"]["content"] == "ok"
        engine.endpoints = (second.base_url,)
        assert len(await ask(model, stream=True)) > 1
        engine.endpoints = ()
        assert (await ask(model, stream=False))[0]["policy_version"] == 3
        assert (len(first.requests), len(second.requests)) == (1, 1)
        status = model.status()
        assert (status.calls, status.failures, [one.url for one in status.servers]) == (
            3,
            0,
            [second.base_url],
        )
        await model.stop()


async def test_models_are_found_by_name_and_their_status_too() -> None:
    engine = Engine()
    with ScriptedLLM() as llm:
        models = Models({"far": HttpUpstream(base_url=llm.base_url), "*": engine}, policy=IMPATIENT)
        far, near = models.resolve("far", GRANT), models.resolve("anything", GRANT)
        assert models.all == [far, near]
        await ask(far, stream=False)
        await ask(near, stream=False)
        status = models.status()
        await models.stop()
    assert {name: each.calls for name, each in status.items()} == {"far": 1, "*": 1}
    assert [server.calls for server in status["far"].servers] == [1]
