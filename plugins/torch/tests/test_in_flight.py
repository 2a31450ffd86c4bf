"""Answers under way: exact log-probabilities, updates, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.errors import EngineError
from agentlightning.types import Json, TokenForest
from lightning_plugin_torch._build import build
from lightning_plugin_torch._options import BuildOptions

Planter = Callable[..., TokenForest]
Starter = Callable[..., Awaitable[Backend]]

EXACT = 1e-4
CROSS_ENTROPY = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")


def ask(*messages: Json, **more: Json) -> dict[str, Json]:
    body: dict[str, Json] = {"model": "policy", "messages": list(messages), "max_tokens": 20, "seed": 5}
    return {**body, "logprobs": True, "return_token_ids": True, **more}


def says(text: str) -> dict[str, Json]:
    return {"role": "user", "content": text}


def logprobs_of(choice: dict) -> list[float]:
    return [entry["logprob"] for entry in choice["logprobs"]["content"]]


async def learned(backend: Backend, plant: Planter, prompt: list[int], response: list[int]) -> list[float]:
    """What the learner finds for a response."""
    forest = plant([(prompt, response)])
    call = forest.trees[0].calls[0]
    return (await backend.learner.logprobs(forest))[0][call.start : call.stop]


async def update(backend: Backend, plant: Planter) -> None:
    await backend.learner.forward_backward(plant([([7, 8], [9, 10])]), CROSS_ENTROPY)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=2e-2))


@pytest.mark.parametrize("style", ["llama", "qwen3", "gpt2"])
async def test_log_probabilities_are_the_learners_over_turns_and_groups(
    start: Starter, plant: Planter, build_options: dict, tmp_path: Path, style: str
) -> None:
    directory = tmp_path / style
    build(BuildOptions(**{**build_options, "context": 256}, style=style), seed=2, directory=directory)
    backend = await start(model=str(directory))
    messages: list[Json] = [says("What is 2 + 3? " * 8)]
    for turn in range(3):
        answer = await backend.engine.chat(ask(*messages, n=3, seed=turn))
        for choice in answer["choices"]:
            found = await learned(backend, plant, answer["prompt_token_ids"], choice["token_ids"])
            assert found == pytest.approx(logprobs_of(choice), abs=EXACT)
        messages += [answer["choices"][0]["message"], says("And now?")]
    assert (await backend.engine.counts()).reused_prompt_tokens >= 64  # later turns began with a whole block


@pytest.mark.parametrize("in_flight", ["keep", "recompute"])
async def test_an_answer_goes_on_under_new_weights(start: Starter, plant: Planter, in_flight: str) -> None:
    backend = await start(in_flight=in_flight)
    stream = backend.engine.stream(ask(says("What is 2 + 3?"), max_tokens=100, temperature=1.0, seed=3))
    chunks = [await anext(stream) for _ in range(3)]
    await update(backend, plant)
    chunks += [chunk async for chunk in stream]
    parts = [choice for chunk in chunks for choice in chunk["choices"]]
    ids = [token for part in parts for token in part["token_ids"]]
    logprobs = [value for part in parts if part["logprobs"] for value in logprobs_of(part)]
    ((old, before), (new, after)) = parts[-1]["policy_versions"]
    assert (old, new) == (0, 1)
    assert before + after == len(ids)
    assert (chunks[-1]["policy_version"], chunks[-1]["policy_versions"]) == (0, [0, 1])
    found = await learned(backend, plant, chunks[0]["prompt_token_ids"], ids)
    apart = max(abs(x - y) for x, y in zip(found[before:], logprobs[before:], strict=True))
    assert (apart < EXACT) == (in_flight == "recompute")
    assert found[:before] != pytest.approx(logprobs[:before], abs=EXACT)


async def test_runs_are_left_out_where_there_is_one_version(backend: Backend) -> None:
    answer = await backend.engine.chat(ask(says("Hello")))
    assert "policy_versions" not in answer
    assert "policy_versions" not in answer["choices"][0]


async def test_too_many_answers_are_refused_until_some_end(start: Starter) -> None:
    backend = await start(max_active=2, max_waiting=3)
    task = asyncio.create_task(backend.engine.chat(ask(says("Hello"), n=5, max_tokens=100)))
    await asyncio.sleep(0)
    with pytest.raises(EngineError, match=r"1 more answers .* 5 are under way or wait .* raise max_waiting"):
        await backend.engine.chat(ask(says("Hello")))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await backend.engine.chat(ask(says("Hello"), n=5)))["choices"]


async def test_a_cache_of_no_size_changes_no_answer(start: Starter) -> None:
    with_cache, without = await start(), await start(prefix_cache_mib=0)
    body = ask(says("What is 2 + 3? " * 3), n=2)
    answers = [await backend.engine.chat(body) for backend in (with_cache, with_cache, without, without)]
    assert all(answer["choices"] == answers[0]["choices"] for answer in answers)
    assert (await without.engine.counts()).cached_bytes == 0
