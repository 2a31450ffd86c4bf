"""Answers: as vLLM gives them, with the version that gave them."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from agentlightning.errors import ConfigError, EngineError
from lightning_plugin_vllm._client import Refused

SERVING = {"serve_only": True, "model": "some/model"}


async def test_an_answer_has_ids_logprobs_and_version(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    answer = await backend.engine.chat(ask(logprobs=True, return_token_ids=True))
    assert answer["prompt_token_ids"] == [1, 2]
    assert answer["choices"][0]["token_ids"] == [5]
    assert answer["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5
    assert (answer["policy_version"], answer["model"]) == (0, "policy")
    assert "policy_versions" not in answer


async def test_a_stream_has_the_same_and_ends_with_usage_and_version(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    chunks = [chunk async for chunk in backend.engine.stream(ask(logprobs=True, return_token_ids=True))]
    assert chunks[0]["prompt_token_ids"] == [1, 2]
    assert [chunk["choices"][0].get("token_ids") for chunk in chunks[:-1]] == [None, [5]]
    assert chunks[-1]["usage"]["completion_tokens"] == 1
    assert [chunk.get("policy_version") for chunk in chunks] == [None, None, 0]


async def test_a_stream_that_breaks_off_is_an_error(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    with pytest.raises(EngineError, match="broke a stream off before its end"):
        _ = [chunk async for chunk in backend.engine.stream(ask("break off"))]


async def test_a_request_that_cannot_be_honoured_is_the_clients_error(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    with pytest.raises(ConfigError, match=r"400: This model's maximum context length"):
        await backend.engine.chat(ask("too long"))
    with pytest.raises(ConfigError, match=r"400: This model's maximum context length"):
        _ = [chunk async for chunk in backend.engine.stream(ask("too long"))]


async def test_cancelling_ends_the_call(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    task = asyncio.create_task(backend.engine.chat(ask("hold")))
    await lab.until_running(backend)
    assert backend.engine.busy("policy")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not backend.engine.busy("policy")


async def test_calls_come_from_any_event_loop(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    answers = await asyncio.gather(
        *(asyncio.to_thread(lambda: asyncio.run(backend.engine.chat(ask()))) for _ in range(4))
    )
    assert len(answers) == 4


async def test_an_engine_that_was_not_started_says_so(lab: Any, ask: Any) -> None:
    with pytest.raises(EngineError, match=r"await engine\.start"):
        await lab.backend(**SERVING).engine.chat(ask())


def test_errors_can_be_sent_between_processes() -> None:
    error = pickle.loads(pickle.dumps(Refused("no", status=400)))
    assert (str(error), error.status) == ("no", 400)
