"""PPO with a value head on a real model: the critic learns to foresee a late reward, and the policy to earn it."""

from __future__ import annotations

import json
import statistics
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

EASY, HARD = TASKS = ["yes yes yes yes", "no no no no"]


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    corpus = tmp_path / "corpus.jsonl"
    messages = [
        [{"role": "user", "content": task}, {"role": "assistant", "content": "yes"}] for task in TASKS
    ]
    corpus.write_text("\n".join(json.dumps({"messages": one}) for one in messages))
    build = {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}
    options = {"build": build, "value_head": {}}
    backend = torch_plugin.create_backend(options, seed=0, directory=tmp_path / "model")
    await backend.engine.start()
    yield backend
    await backend.engine.stop()


async def train(backend: Backend, **params: Json) -> InMemoryTrainingContext:
    draws = iter(range(10_000))

    async def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
        """Two calls, and one reward at the end: for even token ids, and for having been given the easy task."""
        messages: list[Any] = [{"role": "user", "content": task}]
        even = []
        for _ in range(2):
            answer: Any = await backend.engine.chat(
                {
                    "messages": messages,
                    "max_tokens": 3,
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
        episode.reward(0.4 * (task == EASY) + 0.6 * sum(even) / len(even))

    async with open_store("memory://") as store:
        context = InMemoryTrainingContext(
            play=play, store=store, train=TASKS, engine=backend.engine, learner=backend.learner
        )
        await create({"tasks_per_update": 2, "group_size": 8, "passes": 2, **params}).fit(context)
    return context


@pytest.mark.slow
async def test_a_critic_explains_late_rewards_and_the_policy_earns_more_of_them(backend: Backend) -> None:
    advantage = {"name": "token_gae", "lam": 1.0, "value_learning_rate": 1e-2}
    context = await train(backend, updates=40, learning_rate=1e-2, advantage=advantage)
    logged = [metrics for _, metrics in context.logged]
    rewards = [metrics["reward"] for metrics in logged]
    explained = [metrics["critic/vf_explained_var"] for metrics in logged]
    assert explained[0] == pytest.approx(0.0, abs=1e-3)  # a head of zeros explains nothing
    assert statistics.median(explained[-10:]) > 0.2
    assert statistics.fmean(rewards[-5:]) > statistics.fmean(rewards[:5]) + 0.1
    assert logged[-1]["critic/vf_loss"] < 0.5 * logged[0]["critic/vf_loss"]


async def test_old_values_are_those_of_the_first_pass(backend: Backend) -> None:
    advantage = {"name": "token_gae", "value_learning_rate": 1e-2}
    context = await train(backend, updates=2, passes=1, learning_rate=1e-2, advantage=advantage)
    metrics = context.logged[1][1]
    assert metrics["critic/vpred_mean"] == pytest.approx(metrics["critic/values/mean"], abs=1e-5)
    assert metrics["critic/vpred_mean"] != 0.0
    assert metrics["critic/vf_clipfrac"] == 0.0
    assert metrics["critic/lr"] == 1e-2
