"""The trainer through its public API: runs, evaluations, failures, stopping and resuming, without any model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import agentlightning as agl
from agentlightning.algorithm import TrainingContext
from agentlightning.compose import Plan
from agentlightning.errors import BudgetExhausted, ConfigError, Interrupted, PluginNotFound, TargetError
from agentlightning.observer import Event, RolloutFinished
from agentlightning.plugins import Plugins, hookimpl, load_plugins
from agentlightning.specs import AlgorithmSpec
from agentlightning.store import RolloutQuery, open_store
from agentlightning.types import FailureClass, Json, RolloutStatus, RunStatus

TASKS: list[Json] = [{"n": n} for n in range(4)]


async def double(task: Json) -> float:
    assert isinstance(task, dict)
    return float(task["n"] * 2)


def half(task: Json) -> float:
    assert isinstance(task, dict)
    return task["n"] / 2


def explode(task: Json) -> float:
    raise RuntimeError("the agent is broken")


def is_even(task: Json, output: Json) -> float:
    assert isinstance(task, dict)
    return float(task["n"] % 2 == 0)


class BestPrompt:
    """Tries prompts and publishes the best one: an algorithm as a plugin author would write it."""

    name = "best-prompt"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self.prompts = [str(one) for one in params["prompts"]]  # type: ignore[attr-defined]

    async def fit(self, context: TrainingContext) -> None:
        scores: dict[str, float] = {}
        for step, prompt in enumerate(self.prompts):
            candidate = await context.publish(
                {"system": agl.PromptTemplate(template=prompt)}, step=step, live=False
            )
            report = await context.evaluate(resources=candidate, label=f"prompt {step}", step=step)
            scores[prompt] = report.mean
            await context.log({"score": report.mean}, step=step)
        best = max(scores, key=lambda prompt: scores[prompt])
        await context.publish({"system": agl.PromptTemplate(template=best)}, step=len(scores))


class Endless:
    """Executes rollouts step by step and checkpoints each, until it is stopped or has done enough."""

    name = "endless"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self.steps = int(str(params.get("steps", 3)))

    async def fit(self, context: TrainingContext) -> None:
        for step in range(int(str(context.state.get("step", 0))), self.steps):
            rollouts = await context.rollouts(context.train, samples=2, step=step)
            experience = await context.experience(rollouts, step=step)
            outcomes = [trajectory.outcome or 0.0 for trajectory in experience.trajectories]
            await context.log({"reward": sum(outcomes) / len(outcomes)}, step=step)
            await context.checkpoint(step + 1, {"step": step + 1})


class TestPlugin:
    __test__ = False

    @hookimpl
    def agl_register_algorithms(self) -> list[AlgorithmSpec]:
        return [
            AlgorithmSpec(name="best-prompt", target=f"{__name__}:BestPrompt"),
            AlgorithmSpec(name="endless", target=f"{__name__}:Endless"),
            AlgorithmSpec(name="weights", target=f"{__name__}:Endless", needs_learner=True),
        ]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    import sys

    sys.modules.setdefault(__name__, sys.modules[BestPrompt.__module__])
    loaded = load_plugins(names=["core"])
    loaded.register(TestPlugin(), "test")
    return loaded


async def greet(task: Json) -> float:
    prompt = agl.prompt("system")
    return float(len(prompt.render()))


async def test_an_algorithm_tries_prompts_and_the_best_one_is_live(plugins: Plugins, tmp_path: Path) -> None:
    trainer = agl.Trainer(
        greet,
        algorithm="best-prompt",
        params={"prompts": ["a", "the longest of them", "bb"]},
        val=TASKS,
        store=f"sqlite:///{tmp_path / 'agl.db'}",
        plugins=plugins,
    )
    result = await trainer.afit()
    assert result.status is RunStatus.SUCCEEDED
    assert result.best is not None
    assert result.best.resources["system"].value["template"] == "the longest of them"
    assert [point.value for point in result.history if point.name == "score"] == [1.0, 19.0, 2.0]


@pytest.mark.parametrize("agent", [double, half])
async def test_a_number_that_the_agent_returns_is_its_reward(plugins: Plugins, agent: object) -> None:
    trainer = agl.Trainer(agent, algorithm="endless", val=TASKS, store="memory://", plugins=plugins)
    report = await trainer.aevaluate()
    factor = 2.0 if agent is double else 0.5
    assert report.outcomes == tuple(n * factor for n in range(4))
    assert report.low <= report.mean <= report.high


async def test_graders_decide_when_there_are_any(plugins: Plugins) -> None:
    trainer = agl.Trainer(
        double, algorithm="endless", val=TASKS, graders=[is_even], store="memory://", plugins=plugins
    )
    report = await trainer.aevaluate()
    assert report.outcomes == (1.0, 0.0, 1.0, 0.0)
    assert report.mean == 0.5


async def test_a_failed_agent_is_counted_as_a_failure_and_never_as_zero(
    plugins: Plugins, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'agl.db'}"
    report = await agl.Trainer(
        explode, algorithm="endless", val=TASKS, store=url, plugins=plugins
    ).aevaluate()
    assert report.n == 0
    assert report.failures == {"agent_error": 4}
    assert report.outcomes == (None,) * 4
    async with open_store(url) as store:
        page = await store.rollouts.list(RolloutQuery(statuses=(RolloutStatus.FAILED,)))
        failure = page.items[0].failure
        assert failure is not None
        assert failure.kind is FailureClass.AGENT_ERROR
        assert "the agent is broken" in failure.message
        assert "Traceback" in failure.detail


async def test_an_agent_that_takes_too_long_times_out(plugins: Plugins) -> None:
    async def slow(task: Json) -> float:
        await asyncio.sleep(60)
        return 1.0

    trainer = agl.Trainer(
        slow, algorithm="endless", val=TASKS[:1], timeout_s=0.05, store="memory://", plugins=plugins
    )
    report = await trainer.aevaluate()
    assert report.failures == {"timed_out": 1}


async def test_rollouts_of_a_group_get_seeds_that_the_runs_seed_decides(
    plugins: Plugins, tmp_path: Path
) -> None:
    seeds: list[list[int | None]] = []
    for name in ("one", "two"):
        url = f"sqlite:///{tmp_path / name}.db"
        await agl.Trainer(
            double, algorithm="endless", params={"steps": 1}, train=TASKS, store=url, seed=3, plugins=plugins
        ).afit()
        async with open_store(url) as store:
            page = await store.rollouts.list()
            seeds.append([rollout.seed for rollout in page.items])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 8


FOUR_STEPS = agl.part("endless", {"steps": 4})


@pytest.mark.parametrize(
    "algorithm",
    [FOUR_STEPS, agl.together(FOUR_STEPS, agl.part("endless", {"steps": 3}, agents=["nobody"]))],
    ids=["alone", "together"],
)
async def test_a_stopped_run_is_resumed_where_it_was(
    plugins: Plugins, tmp_path: Path, algorithm: Plan
) -> None:
    url = f"sqlite:///{tmp_path / 'agl.db'}"
    stop = asyncio.Event()
    stop_after = 2

    class Stopper:
        """Stops the run once so many rollouts have finished."""

        def __init__(self) -> None:
            self.finished = 0

        def notify(self, event: Event) -> None:
            self.finished += isinstance(event, RolloutFinished)
            if self.finished == stop_after * 8:
                stop.set()

    trainer = agl.Trainer(
        double,
        algorithm=algorithm,
        train=TASKS,
        store=url,
        observers=[Stopper()],
        plugins=plugins,
    )
    with pytest.raises(Interrupted, match="agl runs resume"):
        await trainer._fit(stop, None)
    async with open_store(url) as store:
        (run,) = await store.runs.list()
        assert run.status is RunStatus.STOPPED
        assert run.checkpoint is not None
        done = run.checkpoint.step
        assert 1 <= done <= stop_after + 1
        again = agl.Trainer.of_run(run, store=url, plugins=plugins)
    result = await again.afit(resume=run.id)
    assert result.run_id == run.id
    assert result.status is RunStatus.SUCCEEDED
    assert [point.step for point in result.history if point.name == "reward"] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="succeeded"):
        await again.afit(resume=run.id)


async def test_algorithms_run_in_sequence_and_their_metrics_do_not_mix(plugins: Plugins) -> None:
    trainer = agl.Trainer(
        double,
        algorithm=[("endless", {"steps": 1}), ("best-prompt", {"prompts": ["x"]})],
        train=TASKS,
        val=TASKS,
        store="memory://",
        plugins=plugins,
    )
    result = await trainer.afit()
    names = {point.name for point in result.history}
    assert {"endless/reward", "score"} <= names


async def test_parts_together_spend_a_budget_once(plugins: Plugins) -> None:
    part = ("endless", {"steps": 2})
    trainer = agl.Trainer(
        double,
        algorithm=agl.together(part, part),
        train=TASKS,
        budget=agl.Budget(rollouts=16),
        store="memory://",
        plugins=plugins,
    )
    result = await trainer.afit()
    assert result.status is RunStatus.SUCCEEDED
    assert result.summary["rollouts"] == 16
    assert {point.name for point in result.history} == {"reward", "endless/reward"}


async def test_a_budget_stops_the_run_and_keeps_what_was_done(plugins: Plugins, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'agl.db'}"
    trainer = agl.Trainer(
        double, algorithm="endless", train=TASKS, budget=agl.Budget(rollouts=10), store=url, plugins=plugins
    )
    with pytest.raises(BudgetExhausted, match="allows 10"):
        await trainer.afit()
    async with open_store(url) as store:
        (run,) = await store.runs.list()
        assert run.status is RunStatus.FAILED
        assert len((await store.rollouts.list()).items) == 8


async def test_mistakes_are_named_before_anything_starts(plugins: Plugins, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'agl.db'}"
    with pytest.raises(PluginNotFound, match="best-prompt"):
        await agl.Trainer(double, algorithm="best-promt", store=url, plugins=plugins).afit()
    with pytest.raises(ConfigError, match="--engine torch"):
        await agl.Trainer(double, algorithm="weights", store=url, plugins=plugins).afit()
    with pytest.raises(TargetError, match=r"no installed adapter accepts it.*Installed adapters accept "):
        await agl.Trainer(object(), algorithm="endless", store=url, plugins=plugins).afit()
    with pytest.raises(ConfigError, match="nothing to evaluate on"):
        await agl.Trainer(double, algorithm="endless", store=url, plugins=plugins).aevaluate()
    with pytest.raises(ConfigError, match="concurrency"):
        agl.Trainer(double, concurrency=0, plugins=plugins)
    with pytest.raises(ConfigError, match="tasks must be JSON"):
        await agl.Trainer(double, algorithm="endless", train=[object()], store=url, plugins=plugins).afit()


async def test_what_a_run_needs_is_kept_beside_the_store(plugins: Plugins, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'agl.db'}"
    result = await agl.Trainer(
        double, algorithm="endless", params={"steps": 1}, train=TASKS, store=url, plugins=plugins
    ).afit()
    directory = tmp_path / "agl-runs" / result.run_id
    assert result.directory == str(directory)
    assert [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()] == TASKS
    assert (directory / "checkpoints" / "000001" / "run.json").is_file()
