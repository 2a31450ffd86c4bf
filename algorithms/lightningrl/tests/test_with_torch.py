"""The loop with a real model: a tiny transformer learns to sample even token ids."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.engine import Backend
from agentlightning.store import open_store
from agentlightning.testing import EpisodeBuilder, InMemoryTrainingContext
from agentlightning.types import Json
from lightning_algorithm_lightningrl import create

torch_plugin = pytest.importorskip("lightning_plugin_torch")

TASKS = ["say yes", "say no"]


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    corpus = tmp_path / "corpus.jsonl"
    messages = [
        [{"role": "user", "content": task}, {"role": "assistant", "content": "yes"}] for task in TASKS
    ]
    corpus.write_text("\n".join(json.dumps({"messages": one}) for one in messages))
    build = {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}
    backend = torch_plugin.create_backend({"build": build}, seed=0, directory=tmp_path / "model")
    await backend.engine.start()
    yield backend
    await backend.engine.stop()


async def train(backend: Backend, **params: Json) -> InMemoryTrainingContext:
    draws = iter(range(10_000))

    async def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
        """Two calls, the second one's prompt holding what the first one said."""
        messages: list[Any] = [{"role": "user", "content": task}]
        even = []
        for _ in range(2):
            answer: Any = await backend.engine.chat(
                {
                    "messages": messages,
                    "max_tokens": 6,
                    "logprobs": True,
                    "return_token_ids": True,
                    "seed": next(draws),
                }
            )
            (choice,) = answer["choices"]
            episode.call(
                answer["prompt_token_ids"],
                choice["token_ids"],
                version=answer["policy_version"],
                logprobs=[token["logprob"] for token in choice["logprobs"]["content"]],
            )
            even += [token % 2 == 0 for token in choice["token_ids"]]
            messages += [choice["message"], {"role": "user", "content": "again"}]
        episode.reward(sum(even) / len(even))

    async with open_store("memory://") as store:
        context = InMemoryTrainingContext(
            play=play, store=store, train=TASKS, engine=backend.engine, learner=backend.learner
        )
        await create({"tasks_per_update": 2, "group_size": 8, **params}).fit(context)
    return context


async def test_a_policy_learns_what_is_rewarded(backend: Backend) -> None:
    context = await train(backend, updates=24, learning_rate=1e-2)
    rewards = [metrics["reward"] for _, metrics in context.logged]
    assert rewards[0] < 0.65
    assert rewards[-1] > 0.85


async def test_sampler_and_learner_agree_on_every_probability(backend: Backend) -> None:
    context = await train(backend, updates=2, learning_rate=1e-2)
    for _, metrics in context.logged:
        assert metrics["ratio"] == pytest.approx(1.0, abs=1e-4)
        assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
        assert metrics["clip_ratio/region_mean"] == 0.0
        assert metrics["masked_share"] == 0.0


async def test_a_second_pass_over_the_batch_leaves_the_old_policy(backend: Backend) -> None:
    context = await train(backend, updates=1, learning_rate=1e-2, passes=2)
    assert context.logged[0][1]["kl"] > 1e-4


async def test_reinforce_runs_too(backend: Backend) -> None:
    context = await train(backend, updates=1, loss="reinforce", advantage="rloo")
    assert context.logged[0][1]["grad_norm"] > 0
