"""The loop with a real model: a tiny transformer learns to sample even token ids, with a critic and without."""

from __future__ import annotations

import json
import statistics
from collections.abc import AsyncIterator, Callable
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
Judge = Callable[[Json, list[bool]], float]
"""The reward of a task and of whether each token that was sampled is even."""


def evenness(_: Json, even: list[bool]) -> float:
    return sum(even) / len(even)


def late(task: Json, even: list[bool]) -> float:
    """A part is for having been given the easy task, which a critic can foresee."""
    return 0.4 * (task == EASY) + 0.6 * evenness(task, even)


@pytest.fixture
def options() -> dict[str, object]:
    return {}


@pytest.fixture
def with_critic(options: dict[str, object]) -> None:
    options["value_head"] = {"attached": True}


@pytest.fixture
async def backend(options: dict[str, object], tmp_path: Path) -> AsyncIterator[Backend]:
    corpus = tmp_path / "corpus.jsonl"
    messages = [
        [{"role": "user", "content": task}, {"role": "assistant", "content": "yes"}] for task in TASKS
    ]
    corpus.write_text("\n".join(json.dumps({"messages": one}) for one in messages))
    build = {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}
    backend = torch_plugin.create_backend({"build": build, **options}, seed=0, directory=tmp_path / "model")
    await backend.engine.start()
    yield backend
    await backend.engine.stop()


async def train(
    backend: Backend, *, judge: Judge = evenness, max_tokens: int = 6, **params: Json
) -> InMemoryTrainingContext:
    draws = iter(range(10_000))

    async def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
        """Two calls, the second one's prompt holding what the first one said."""
        messages: list[Any] = [{"role": "user", "content": task}]
        even = []
        for _ in range(2):
            answer: Any = await backend.engine.chat(
                {
                    "messages": messages,
                    "max_tokens": max_tokens,
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
        episode.reward(judge(task, even))

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


@pytest.mark.slow
@pytest.mark.usefixtures("with_critic")
async def test_a_critic_foresees_late_rewards_and_the_policy_earns_more_of_them(backend: Backend) -> None:
    advantage = {"name": "token_gae", "lam": 1.0, "value_learning_rate": 1e-2}
    context = await train(
        backend, judge=late, max_tokens=3, updates=30, passes=2, learning_rate=1e-2, advantage=advantage
    )
    logged = [metrics for _, metrics in context.logged]
    rewards = [metrics["reward"] for metrics in logged]
    explained = [metrics["critic/vf_explained_var"] for metrics in logged]
    assert explained[0] == pytest.approx(0.0, abs=1e-3)  # a head of zeros explains nothing
    assert max(explained) > 0.1
    assert statistics.fmean(rewards[-5:]) > statistics.fmean(rewards[:5]) + 0.1
    assert logged[-1]["critic/vf_loss"] < 0.5 * logged[0]["critic/vf_loss"]


@pytest.mark.usefixtures("with_critic")
async def test_old_values_are_those_of_the_first_pass(backend: Backend) -> None:
    advantage = {"name": "token_gae", "value_learning_rate": 1e-2}
    context = await train(
        backend, judge=late, max_tokens=3, updates=2, learning_rate=1e-2, advantage=advantage
    )
    metrics = context.logged[1][1]
    assert metrics["critic/vpred_mean"] == pytest.approx(metrics["critic/values/mean"], abs=1e-5)
    assert metrics["critic/vpred_mean"] != 0.0
    assert metrics["critic/vf_clipfrac"] == 0.0
    assert metrics["critic/lr"] == 1e-2
