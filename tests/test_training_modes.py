"""A tiny model trained beside its rollouts, and from rollouts that a store has: through agent, gateway and store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentlightning import Budget, Sampling, Trainer
from agentlightning.algorithm import TrainingContext
from agentlightning.continuous import Accept, Continuous
from agentlightning.errors import BudgetExhausted, ConfigError, Interrupted
from agentlightning.observer import Event, EventLogged
from agentlightning.plugins import Plugins, hookimpl, load_plugins
from agentlightning.specs import AlgorithmSpec
from agentlightning.store import RolloutQuery, SpanQuery, open_store
from agentlightning.trainer import TrainingResult
from agentlightning.types import Experience, Json, Mode, ResourceState, Run, RunStatus

pytest.importorskip("lightning_algorithm_lightningrl")
pytest.importorskip("lightning_plugin_gateway")
pytest.importorskip("lightning_plugin_torch")
pytest.importorskip("lightning_adapter_openai")

TASKS: list[Json] = ["say yes", "say no"]
QUICK: dict[str, Json] = {"tasks_per_update": 2, "group_size": 4, "learning_rate": 1e-2}


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


def trainer(folder: Path, plugins: Plugins, params: dict[str, Json] | None, **changes: Any) -> Trainer:
    corpus = folder / "corpus.jsonl"
    corpus.write_text('{"messages": [{"role": "user", "content": "say yes or no"}]}\n')
    settings: dict[str, Any] = {
        "params": None if params is None else {**QUICK, **params},
        "train": TASKS,
        "store": f"sqlite:///{folder / 'agl.db'}",
        "engine": "torch",
        "engine_params": {"build": {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}},
        "sampling": {Mode.TRAIN: Sampling(temperature=1.0, max_tokens=6)},
        "plugins": plugins,
        "agent": agent,
    }
    return Trainer(**(settings | changes))


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


class Heard:
    """Notes which events a run tells its observers."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, EventLogged):
            self.kinds.append(event.kind)


async def test_an_agent_that_asks_for_the_likeliest_answer_is_sampled_while_it_is_trained(
    tmp_path: Path, plugins: Plugins
) -> None:
    async def certain(task: Json) -> float:
        messages: Any = [{"role": "user", "content": str(task)}]
        await client().chat.completions.create(
            model="policy", messages=messages, temperature=0.0, max_tokens=2
        )
        return 1.0

    params = {"updates": 1, "group_size": 2}
    heard = Heard()
    made = trainer(tmp_path, plugins, params, sampling={}, val=["held out"], agent=certain, observers=[heard])
    await made.afit()
    assert heard.kinds == ["nothing_to_train"]
    async with open_store(f"sqlite:///{tmp_path / 'agl.db'}") as store:
        asked = {
            (rollout.mode, span.attributes["gen_ai.request.temperature"])
            for rollout in (await store.rollouts.list()).items
            for span in (await store.spans.page(SpanQuery(rollout_ids=(rollout.id,)))).items
            if span.tokens
        }
    assert asked == {(Mode.TRAIN, 1.0), (Mode.VAL, 0.0)}


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


class Looking:
    """Plays, saves and is stopped; when it goes on it plays again, and keeps what it has been given."""

    name = "looking"
    seen: ClassVar[list[Experience]] = []

    def __init__(self, params: Mapping[str, Json]) -> None:
        del params

    async def fit(self, context: TrainingContext) -> None:
        self.seen.append(await context.experience(await context.rollouts(context.train)))
        if not context.state:
            await context.checkpoint(1, {"step": 1})
            raise Interrupted("stopped")


class Meddling:
    """Makes the first set live again, as a person may at any time, and then begins another run."""

    name = "meddling"

    def __init__(self, params: Mapping[str, Json]) -> None:
        del params

    async def fit(self, context: TrainingContext) -> None:
        first = (await context.store.resources.list())[-1]
        if first.state is ResourceState.RETIRED:
            await context.store.resources.move(first.id, ResourceState.LIVE)
            with pytest.raises(
                ConfigError, match=f"run {context.run.id} learns weights on this store already"
            ):
                await trainer(
                    Path(context.store.url.removeprefix("sqlite:///")).parent,
                    load_plugins(names=["core", "gateway", "openai", "lightningrl", "torch"]),
                    {"updates": 1},
                ).alearn()


class TestAlgorithms:
    __test__ = False

    @hookimpl
    def agl_register_algorithms(self) -> list[AlgorithmSpec]:
        return [
            AlgorithmSpec(name=one.name, target=f"{__name__}:{one.__name__}") for one in (Looking, Meddling)
        ]


def test_experience_says_which_versions_are_weights_that_came_back(tmp_path: Path) -> None:
    plugins = load_plugins(names=["core", "gateway", "openai", "torch"])
    plugins.register(TestAlgorithms(), "test")
    looking = trainer(tmp_path, plugins, None, algorithm="looking")
    with pytest.raises(Interrupted):
        looking.fit()
    (run,) = asyncio.run(runs_of(f"sqlite:///{tmp_path / 'agl.db'}"))
    looking.fit(resume=run.id)
    before, after = (one.lineages[run.id] for one in Looking.seen)
    newest = max(
        one.tokens.version for each in Looking.seen[1].trajectories for one in each.transitions if one.tokens
    )
    assert before.loaded == {}
    assert newest > 1
    assert after.loaded == {newest: 0}
    assert after.updates_between(newest, 0) == 0


def test_the_learner_follows_what_somebody_else_makes_live(tmp_path: Path, plugins: Plugins) -> None:
    at_once = Continuous(every_rollouts=2, canary=0.0, rounds=1, accept=Accept.NO_LOSS)
    trainer(tmp_path, plugins, {"updates": 1}, val=["held out"], graders=[no_difference_held_out]).learn(
        at_once
    )
    assert [state for state, _ in asyncio.run(sets_of(f"sqlite:///{tmp_path / 'agl.db'}"))] == [
        "retired",
        "live",
    ]
    with_meddling = load_plugins(names=["core", "gateway", "openai", "torch"])
    with_meddling.register(TestAlgorithms(), "test")
    how = Continuous(every_rollouts=2, canary_rollouts=2, rounds=2)
    result = trainer(tmp_path, with_meddling, None, algorithm="meddling").learn(how)
    assert [told.partition("(")[0] for told in asyncio.run(events_of(result, kind="weights"))] == [
        "policy version 1 is loaded from resource set 2 ",
        "policy version 2 is loaded from resource set 1 ",
    ]


def no_difference_held_out(task: Json, output: Json) -> float:
    return 1.0 if task == "held out" else float(str(output))


async def events_of(result: TrainingResult, *, kind: str) -> list[str]:
    async with open_store(result.store) as opened:
        return [event.message for event in await opened.runs.events(result.run_id) if event.kind == kind]


async def runs_of(store: str) -> list[Run]:
    async with open_store(store) as opened:
        return await opened.runs.list()


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
