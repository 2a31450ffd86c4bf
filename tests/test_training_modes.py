"""A tiny model trained beside its rollouts, and from rollouts that a store has: through agent, gateway and store."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agentlightning import Budget, Sampling, Trainer
from agentlightning.continuous import Accept, Continuous
from agentlightning.errors import BudgetExhausted, ConfigError
from agentlightning.plugins import Plugins, load_plugins
from agentlightning.store import RolloutQuery, open_store
from agentlightning.trainer import TrainingResult
from agentlightning.types import Json, Mode, RunStatus

pytest.importorskip("lightning_algorithm_lightningrl")
pytest.importorskip("lightning_plugin_gateway")
pytest.importorskip("lightning_plugin_torch")
pytest.importorskip("lightning_adapter_openai")

TASKS: list[Json] = ["say yes", "say no"]


@cache
def client() -> Any:
    """One for all rollouts: making one is slow."""
    import openai

    return openai.AsyncOpenAI(api_key="unused")


async def agent(task: Json) -> float:
    """Asks once; letters of the first half of the alphabet are its reward."""
    answer = await client().chat.completions.create(
        model="policy", messages=[{"role": "user", "content": str(task)}]
    )
    text = answer.choices[0].message.content or ""
    return sum(character.lower() < "n" for character in text) / max(1, len(text))


@pytest.fixture(autouse=True)
def fresh_client() -> None:
    client.cache_clear()


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins(names=["core", "gateway", "openai", "lightningrl", "torch"])


def trainer(folder: Path, plugins: Plugins, params: dict[str, Json], **changes: Any) -> Trainer:
    corpus = folder / "corpus.jsonl"
    corpus.write_text('{"messages": [{"role": "user", "content": "say yes or no"}]}\n')
    settings: dict[str, Any] = {
        "params": {"tasks_per_update": 2, "group_size": 4, "learning_rate": 1e-2, **params},
        "train": TASKS,
        "store": f"sqlite:///{folder / 'agl.db'}",
        "engine": "torch",
        "engine_params": {"build": {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}},
        "sampling": {Mode.TRAIN: Sampling(temperature=1.0, max_tokens=6)},
        "plugins": plugins,
    }
    return Trainer(agent, **(settings | changes))


def series(result: TrainingResult, name: str) -> list[float]:
    return [point.value for point in result.history if point.name == name]


async def rollouts_of(store: str) -> list[str]:
    async with open_store(store) as opened:
        page = await opened.rollouts.list(RolloutQuery(mode=Mode.TRAIN), limit=1_000)
        return [f"{one.run_id}" for one in page.items]


def test_a_model_learns_beside_its_rollouts_and_then_from_what_they_left(
    tmp_path: Path, plugins: Plugins
) -> None:
    beside = trainer(tmp_path, plugins, {"updates": 6, "max_staleness": 2}).fit()
    assert len(series(beside, "loss")) == 6
    assert max(series(beside, "staleness/max")) in (1.0, 2.0)
    assert max(series(beside, "masked_share")) == 0.0
    # what older weights have sampled is not what the learner would say now
    assert max(series(beside, "kl")) > 1e-6
    assert sum(series(beside, "groups/stale")) == 0.0
    played = asyncio.run(rollouts_of(beside.store))
    assert len(played) == 48

    params: dict[str, Json] = {"updates": 3, "correction": [{"name": "tis"}]}
    results = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        other = trainer(folder, plugins, params, train=())
        results.append(other.offline(runs=[beside.run_id], store=beside.store))
        assert asyncio.run(rollouts_of(results[-1].store)) == []
    assert len(series(results[0], "loss")) == 3
    assert series(results[0], "replay/rollouts") == [8.0] * 3
    assert max(series(results[0], "sampling/sampling_logp_difference/max")) > 1e-3
    for metric in ("loss", "grad_norm", "reward", "sampling/importance_sampling_ratio/mean"):
        assert series(results[0], metric) == series(results[1], metric)


def test_there_must_be_something_to_learn_from(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"0 finished rollouts for training, and no group of at least 2"):
        trainer(tmp_path, plugins, {"updates": 1}).offline()


def test_the_time_is_a_limit_of_training_from_a_store_too(tmp_path: Path, plugins: Plugins) -> None:
    trainer(tmp_path, plugins, {"updates": 1}).fit()
    with pytest.raises(BudgetExhausted, match="the budget allows 0 s"):
        trainer(tmp_path, plugins, {"updates": 1}, budget=Budget(seconds=0)).offline()


def test_money_is_refused_as_a_limit_where_nothing_has_a_price(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="engine 'torch' has no price"):
        trainer(tmp_path, plugins, {"updates": 1}, budget=Budget(money=1.0)).fit()


async def sets_of(store: str) -> list[tuple[str, int]]:
    """States and policy versions of the resource sets, oldest first."""
    async with open_store(store) as opened:
        sets = await opened.resources.list()
        return [
            (one.state.value, int(str(one.resources["policy"].value["version"]))) for one in reversed(sets)
        ]


def constant(task: Json, output: Json) -> float:
    return 1.0


def test_weights_that_show_no_gain_are_taken_back(tmp_path: Path, plugins: Plugins) -> None:
    params: dict[str, Json] = {"updates": 1}
    how = Continuous(every_rollouts=2, canary_rollouts=2, rounds=2)
    result = trainer(tmp_path, plugins, params, val=TASKS, graders=[constant]).learn(how)
    states = asyncio.run(sets_of(result.store))
    assert states[0] == ("live", 0)
    assert all(state == "retired" for state, _ in states[1:])


def test_weights_go_candidate_canary_live(tmp_path: Path, plugins: Plugins) -> None:
    params: dict[str, Json] = {"updates": 1}
    how = Continuous(every_rollouts=4, canary_rollouts=2, rounds=3, accept=Accept.NO_LOSS)
    result = trainer(tmp_path, plugins, params, val=TASKS).learn(how)
    states = asyncio.run(sets_of(result.store))
    assert [version for _, version in states] == sorted(version for _, version in states)
    assert len(states) > 1
    assert sum(state in ("live", "canary") for state, _ in states) >= 1
    assert result.status is RunStatus.SUCCEEDED
