"""Continuous learning without a model: a prompt's length is its worth, and traffic can make a liar of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import TrainingContext
from agentlightning.continuous import Accept, Continuous, Traffic
from agentlightning.errors import ConfigError, Interrupted
from agentlightning.plugins import Plugins, hookimpl, load_plugins
from agentlightning.promotion import traffic
from agentlightning.specs import AlgorithmSpec
from agentlightning.store import Store, open_store
from agentlightning.types import (
    Completion,
    Json,
    ResourceState,
    RewardSource,
    RolloutRequest,
    RunStatus,
    reward_span,
)

TASKS: list[Json] = [{"n": n, "kind": "stream"} for n in range(8)]
VAL: list[Json] = [{"n": n, "kind": "val"} for n in range(8)]
QUICK = {"every_rollouts": 32, "canary": 0.5, "canary_rollouts": 4}


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
        return [
            AlgorithmSpec(name=one.__name__.lower(), target=f"{__name__}:{one.__name__}")
            for one in (Longer, Practising)
        ]


@pytest.fixture
def plugins() -> Plugins:
    import sys

    sys.modules.setdefault(__name__, sys.modules[Longer.__module__])
    loaded = load_plugins(names=["core"])
    loaded.register(TestPlugin(), "test")
    return loaded


def worth(task: Json) -> float:
    """The longer the prompt, the better.

    One with a `?` is good on held-out tasks alone, one with a `~` fails on others, and one with a `!` on all.
    """
    assert isinstance(task, dict)
    text = agl.prompt("system").render()
    if task["kind"] == "practice":
        return -100.0
    if "!" in text or ("~" in text and task["kind"] == "stream"):
        raise RuntimeError("the agent cannot work with this prompt")
    if "?" in text and task["kind"] == "stream":
        return float(task["n"] % 2) / 10
    return len(text) + float(task["n"] % 2) / 10


def trainer(plugins: Plugins, url: str | Store, *prompts: str, **changes: object) -> agl.Trainer:
    settings: dict[str, object] = {"train": TASKS, "val": VAL}
    return agl.Trainer(
        worth,
        params={"prompts": list(prompts)},
        store=url,
        plugins=plugins,
        **({"algorithm": "longer"} | settings | changes),  # type: ignore[arg-type]
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


@pytest.mark.parametrize("canary", [0.0, 0.5])
async def test_what_fails_on_every_held_out_task_is_not_taken_for_no_loss(
    plugins: Plugins, canary: float
) -> None:
    async with open_store("memory://") as store:
        await start(store)
        how = Continuous(every_rollouts=4, canary=canary, accept=Accept.NO_LOSS, rounds=1)
        result = await trainer(plugins, store, "this fails!").alearn(how)
        assert await states(store) == [("first", "live"), ("this fails!", "retired")]
        events = [event.message for event in await store.runs.events(result.run_id)]
        assert any("turned down: nothing to compare, and it fails more often" in one for one in events)


async def test_a_canary_that_only_fails_on_traffic_is_taken_back(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        result = await trainer(plugins, store, "works in tests~").alearn(Continuous(**QUICK, rounds=2))
        assert await states(store) == [("first", "live"), ("works in tests~", "retired")]
        events = [event.message for event in await store.runs.events(result.run_id)]
        assert any("taken back: nothing to compare, and it fails more often" in one for one in events)


async def test_what_became_live_is_taken_back_when_it_only_fails(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        at_once = Continuous(every_rollouts=16, canary=0.0, canary_rollouts=4, rounds=1)
        await trainer(plugins, store, "works in tests~").alearn(at_once)
        assert await states(store) == [("first", "retired"), ("works in tests~", "live")]
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        assert await states(store) == [("first", "live"), ("works in tests~", "retired")]


async def test_an_evaluation_in_which_all_fails_is_asked_again(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        held_out: list[Json] = []

        def out_of_order_at_first(task: Json, output: Json) -> float:
            if isinstance(task, dict) and task["kind"] == "val":
                held_out.append(task)
                if len(held_out) <= len(VAL):
                    raise RuntimeError("the judge is away")
            return float(str(output))

        made = trainer(
            plugins, store, "much longer", "even longer than that", graders=[out_of_order_at_first]
        )
        await made.alearn(Continuous(every_rollouts=4, canary=0.0, rounds=2))
        assert await states(store) == [
            *(("first", "retired"), ("much longer", "retired"), ("even longer than that", "live"))
        ]


async def test_live_rollouts_of_others_begin_a_round(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        learning = asyncio.create_task(
            trainer(plugins, store, "much longer").alearn(
                Continuous(every_rollouts=4, traffic=Traffic.LIVE, rounds=1)
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
    with pytest.raises(ConfigError, match=r"no rollout is played .* a canary would never be judged"):
        Continuous(every_rollouts=0, every_seconds=1.0)
    assert Continuous(every_rollouts=0, every_seconds=1.0, canary=0.0).canary == 0.0
    assert Continuous(every_rollouts=0, every_seconds=1.0, traffic=Traffic.LIVE).canary == 0.1
    with pytest.raises(ConfigError, match="nobody else has a store in memory"):
        await trainer(plugins, "memory://", "x").alearn(Continuous(traffic=Traffic.LIVE))
    async with open_store("memory://") as store:
        with pytest.raises(ConfigError, match="nothing would be judged"):
            await trainer(plugins, store, "x", val=()).alearn(Continuous(canary=0.0))


class Practising(Longer):
    """Plays rollouts in order to learn: on what is live, which does badly there, and on candidates."""

    async def fit(self, context: TrainingContext) -> None:
        practice: list[Json] = [{"n": n, "kind": "practice"} for n in range(32)]
        await context.rollouts(practice, step=0)
        await super().fit(context)


async def test_what_a_run_plays_to_learn_is_no_traffic_of_what_is_live(plugins: Plugins) -> None:
    promote = Continuous(every_rollouts=16, canary=0.0, canary_rollouts=4, rounds=1)
    async with open_store("memory://") as store:
        await start(store)
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        await trainer(plugins, store, "much longer").alearn(promote)
        for _ in range(2):
            await trainer(plugins, store, algorithm="practising").alearn(Continuous(**QUICK, rounds=1))
        assert await states(store) == [("first", "retired"), ("much longer", "live")]
        events = [
            event.message for run in await store.runs.list() for event in await store.runs.events(run.id)
        ]
        assert not any("taken back" in message for message in events)


async def test_only_the_stream_and_what_no_run_asked_for_is_traffic(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        live = await store.resources.live()
        assert live is not None
        await trainer(plugins, store, algorithm="practising").afit()
        assert await traffic(store, since=0.0) == {}
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        assert {name: len(found) for name, found in (await traffic(store, since=0.0)).items()} == {
            live.id: 32
        }
        await play(store, [RolloutRequest(task=1), RolloutRequest(task=2, run_id="the shop's own name")])
        found = await traffic(store, since=0.0)
        assert sorted(found[live.id])[-2:] == [100.0, 100.0]
        assert len(found[live.id]) == 34


async def test_training_on_the_same_store_does_not_begin_a_round(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store("memory://") as store:
        await start(store)
        read: asyncio.Queue[int] = asyncio.Queue()
        completions = store.rollouts.completions

        async def watched(*, after: int, **how: Any) -> list[Completion]:
            read.put_nowait(after)
            return await completions(after=after, **how)

        monkeypatch.setattr(store.rollouts, "completions", watched)
        how = Continuous(every_rollouts=4, traffic=Traffic.LIVE, rounds=1)
        learning = asyncio.create_task(trainer(plugins, store, "much longer").alearn(how))
        await read.get()
        await trainer(plugins, store, algorithm="practising").afit()
        (*_, last) = await completions(after=0, limit=1_000)
        reading = asyncio.create_task(_until(read, last.cursor))
        await asyncio.wait({learning, reading}, return_when=asyncio.FIRST_COMPLETED)
        assert not learning.done()
        await play(store, [RolloutRequest(task=task) for task in range(4)])
        await learning
        assert await states(store) == [("first", "live"), ("much longer", "canary")]


async def _until(read: asyncio.Queue[int], cursor: int) -> None:
    while await read.get() < cursor:
        pass


async def play(store: Store, requests: list[RolloutRequest]) -> None:
    """Live rollouts of an agent that another process runs; each earns 100."""
    await store.rollouts.enqueue(requests)
    for _ in requests:
        (lease,) = await store.rollouts.lease("worker")
        reward = reward_span(
            rollout_id=lease.rollout.id,
            attempt_id=lease.attempt.id,
            span_id="1" * 16,
            trace_id="1" * 32,
            time_ns=1,
            value=100.0,
            dimension="reward",
            source=RewardSource.GRADER,
        )
        await store.spans.append([reward], token=lease.attempt.token)
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)


async def test_a_canary_is_judged_however_many_sets_others_have_published_since(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        await trainer(plugins, store, "much longer").alearn(Continuous(**QUICK, rounds=1))
        for place in range(120):  # more than a store lists at once, as an optimiser's candidates are
            await store.resources.publish(
                {"system": agl.PromptTemplate(template=f"candidate {place}")}, state=ResourceState.CANDIDATE
            )
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1))
        first, canary = (await store.resources.list(limit=200))[-1:-3:-1]
        assert (first.state, canary.state) == (ResourceState.RETIRED, ResourceState.LIVE)


async def test_a_run_does_not_go_on_as_what_it_was_not(plugins: Plugins, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'agl.db'}") as store:
        await start(store)
        learning = asyncio.create_task(trainer(plugins, store).alearn(Continuous(**QUICK)))
        while not (runs := await store.runs.list()) or runs[0].checkpoint is None:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.01)
        await store.runs.request_stop(runs[0].id)
        with pytest.raises(Interrupted):
            await learning
        with pytest.raises(ConfigError, match="was begun with algorithm 'longer', and this is 'practising'"):
            await trainer(plugins, store, algorithm="practising").alearn(Continuous(), resume=runs[0].id)
        with pytest.raises(ConfigError, match=r"learns continuously; go on with .*learn\(…, resume="):
            await trainer(plugins, store).afit(resume=runs[0].id)
        assert (await store.runs.get(runs[0].id)).status is RunStatus.STOPPED
        await trainer(plugins, store).alearn(Continuous(**QUICK, rounds=1), resume=runs[0].id)


async def test_an_evaluation_is_not_gone_on_with_as_a_training(plugins: Plugins) -> None:
    async with open_store("memory://") as store:
        await start(store)
        evaluating = asyncio.create_task(trainer(plugins, store).aevaluate(VAL))
        while not (runs := await store.runs.list()):  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0)
        evaluating.cancel()
        await asyncio.gather(evaluating, return_exceptions=True)
        assert (await store.runs.get(runs[0].id)).status is RunStatus.STOPPED
        with pytest.raises(ConfigError, match="is of kind 'evaluate', which has nothing to go on with"):
            await trainer(plugins, store).afit(resume=runs[0].id)
