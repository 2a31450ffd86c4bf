"""Continuous learning without a model: a prompt's length is its worth, and traffic can make a liar of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

import agentlightning as agl
from agentlightning.algorithm import TrainingContext
from agentlightning.continuous import Accept, Continuous
from agentlightning.errors import ConfigError, Interrupted
from agentlightning.plugins import Plugins, hookimpl, load_plugins
from agentlightning.promotion import Verdict, by_tasks, by_traffic
from agentlightning.specs import AlgorithmSpec
from agentlightning.store import Store, open_store
from agentlightning.types import Json, ResourceState, RunStatus

TASKS: list[Json] = [{"n": n, "kind": "stream"} for n in range(8)]
VAL: list[Json] = [{"n": n, "kind": "val"} for n in range(8)]
QUICK = {"every_rollouts": 16, "canary": 0.5, "canary_rollouts": 4}


class Longer:
    """Publishes prompts one after the other, one a round."""

    name = "longer"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self.prompts = [str(one) for one in params["prompts"]]  # type: ignore[attr-defined]

    async def fit(self, context: TrainingContext) -> None:
        made = [one for one in await context.store.resources.list() if one.run_id == context.run.id]
        if len(made) < len(self.prompts):
            prompt = self.prompts[len(made)]
            await context.log({"length": float(len(prompt))}, step=0)
            await context.publish({"system": agl.PromptTemplate(template=prompt)})


class TestPlugin:
    __test__ = False

    @hookimpl
    def agl_register_algorithms(self) -> list[AlgorithmSpec]:
        return [AlgorithmSpec(name="longer", target=f"{__name__}:Longer")]


@pytest.fixture
def plugins() -> Plugins:
    import sys

    sys.modules.setdefault(__name__, sys.modules[Longer.__module__])
    loaded = load_plugins(names=["core"])
    loaded.register(TestPlugin(), "test")
    return loaded


def worth(task: Json) -> float:
    """The longer the prompt, the better; a prompt with a `?` is good on held-out tasks alone."""
    assert isinstance(task, dict)
    text = agl.prompt("system").render()
    if "?" in text and task["kind"] == "stream":
        return float(task["n"] % 2) / 10
    return len(text) + float(task["n"] % 2) / 10


def trainer(plugins: Plugins, url: str | Store, *prompts: str, **changes: object) -> agl.Trainer:
    settings: dict[str, object] = {"train": TASKS, "val": VAL}
    return agl.Trainer(
        worth,
        algorithm="longer",
        params={"prompts": list(prompts)},
        store=url,
        plugins=plugins,
        **(settings | changes),  # type: ignore[arg-type]
    )


async def start(store: Store) -> None:
    await store.resources.publish({"system": agl.PromptTemplate(template="first")})


async def states(store: Store) -> list[tuple[str, str]]:
    return [
        (str(one.resources["system"].value["template"]), one.state.value)
        for one in reversed(await store.resources.list())
    ]


async def test_what_is_better_becomes_a_canary_and_then_live(plugins: Plugins, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'agl.db'}") as store:
        await start(store)
        await trainer(plugins, store, "much longer").alearn(Continuous(**QUICK, rounds=1))
        assert await states(store) == [("first", "live"), ("much longer", "canary")]
        (canary, _) = await store.resources.list()
        assert canary.weight == 0.5
        result = await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        assert await states(store) == [("first", "retired"), ("much longer", "live")]
        assert result.status is RunStatus.SUCCEEDED
        assert result.best is not None


async def test_what_is_worse_on_held_out_tasks_never_sees_traffic(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        result = await trainer(plugins, store, "bad").alearn(Continuous(**QUICK, rounds=1))
        assert await states(store) == [("first", "live"), ("bad", "retired")]
        events = [event.message for event in await store.runs.events(result.run_id)]
        assert any("turned down: -2.000" in message for message in events)


async def test_a_canary_that_traffic_shows_to_be_worse_is_taken_back(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        await trainer(plugins, store, "is this longer?").alearn(Continuous(**QUICK, rounds=2))
        assert await states(store) == [("first", "live"), ("is this longer?", "retired")]


async def test_what_became_live_is_taken_back_when_its_traffic_is_worse(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        how = Continuous(every_rollouts=16, canary=0.0, canary_rollouts=4, rounds=1)
        await trainer(plugins, store, "is this longer?").alearn(how)
        assert await states(store) == [("first", "retired"), ("is this longer?", "live")]
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        assert await states(store) == [("first", "live"), ("is this longer?", "retired")]


async def test_without_held_out_tasks_traffic_alone_decides(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        made = trainer(plugins, store, "much longer", val=())
        await made.alearn(Continuous(**QUICK, rounds=2))
        assert await states(store) == [("first", "retired"), ("much longer", "live")]


async def test_no_loss_is_enough_where_that_was_asked(plugins: Plugins) -> None:
    for accept, state in ((Accept.GAIN, "retired"), (Accept.NO_LOSS, "canary")):
        async with open_store("memory://") as store:
            await start(store)
            await trainer(plugins, store, "equal").alearn(Continuous(**QUICK, rounds=1, accept=accept))
            assert await states(store) == [("first", "live"), ("equal", state)]


async def test_live_rollouts_of_others_begin_a_round(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        learning = asyncio.create_task(
            trainer(plugins, store, "much longer").alearn(
                Continuous(every_rollouts=4, traffic="live", rounds=1)  # type: ignore[arg-type]
            )
        )
        while not [run for run in await store.runs.list() if await store.runs.events(run.id)]:  # noqa: ASYNC110 - the store tells nobody of events
            await asyncio.sleep(0)
        await trainer(plugins, store).alearn(Continuous(every_rollouts=4, rounds=1))
        await learning
        assert await states(store) == [("first", "live"), ("much longer", "canary")]


async def test_a_stopped_run_goes_on_with_the_round_that_it_was_in(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'agl.db'}"
    how = Continuous(every_rollouts=4, canary=0.0, rounds=3)
    learned = Longer.fit
    calls: list[int] = []

    async def stopped_once(self: Longer, context: TrainingContext) -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            raise Interrupted("stopped")
        await learned(self, context)

    monkeypatch.setattr(Longer, "fit", stopped_once)
    async with open_store(url) as store:
        await start(store)
        with pytest.raises(Interrupted):
            await trainer(plugins, store, "much longer", "longer than that").alearn(how)
        (run,) = await store.runs.list()
        assert run.status is RunStatus.STOPPED
        again = trainer(plugins, store, "much longer", "longer than that")
        await again.alearn(how, resume=run.id)
        assert len(calls) == 4
        assert await states(store) == [
            ("first", "retired"),
            ("much longer", "retired"),
            ("longer than that", "live"),
        ]


async def test_a_round_that_nothing_would_begin_or_judge_is_refused(plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="both are 0"):
        Continuous(every_rollouts=0)
    async with open_store("memory://") as store:
        with pytest.raises(ConfigError, match="nothing would be judged"):
            await trainer(plugins, store, "x", val=()).alearn(Continuous(canary=0.0))


def test_an_interval_decides_and_too_few_outcomes_do_not() -> None:
    assert by_tasks([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]).verdict is Verdict.BETTER
    assert by_tasks([1.0, 0.0, None], [0.0, 1.0, 1.0]).verdict is Verdict.UNDECIDED
    assert by_tasks([None], [1.0]).verdict is Verdict.UNDECIDED
    assert by_traffic([1.0, 2.0, 1.0], [5.0, 6.0, 5.0]).verdict is Verdict.WORSE
    assert by_traffic([1.0], [5.0, 6.0]).verdict is Verdict.UNDECIDED
    assert ResourceState.CANARY.value == "canary"
