"""Compositions at work: order, the shared stream, resource sets, checkpoints, and parts that end or fail.

The run is in memory, its rollouts depend on the resources that they are pinned to, and its algorithms show what they
do.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from agentlightning.algorithm import Algorithm, EvaluationReport, TrainingContext
from agentlightning.compose import (
    AlternateAlgorithm,
    SelectingAlgorithm,
    SequenceAlgorithm,
    TogetherAlgorithm,
)
from agentlightning.errors import BudgetExhausted, ConfigError
from agentlightning.store import Store, open_store
from agentlightning.testing import EpisodeBuilder, InMemoryTrainingContext
from agentlightning.types import (
    BUILTIN_KINDS,
    Experience,
    Json,
    Mode,
    PromptTemplate,
    Resource,
    ResourceSet,
    ResourceState,
    Rollout,
)


class KilledError(Exception):
    """What stands for `kill -9`."""


@dataclass(kw_only=True)
class ScriptedContext(InMemoryTrainingContext):
    """A run whose store keeps resource sets, and that notes every operation.

    Attributes:
        done: Every operation in order.
        die_at: Place of the operation at which the run is killed; 0 for never.
        prompts: What the rollouts being played are pinned to.
    """

    done: list[str] = field(default_factory=list)
    die_at: int = 0
    prompts: dict[str, str] = field(default_factory=dict)

    def note(self, what: str) -> None:
        self.done.append(what)
        if len(self.done) == self.die_at:
            raise KilledError(what)

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        pinned = resources or await self.store.resources.live()
        records = pinned.resources if pinned else {}
        self.prompts = {name: str(record.load(BUILTIN_KINDS)) for name, record in sorted(records.items())}
        self.note(f"rollouts {mode} {step} {resources.version if resources else 'live'}")
        return await super().rollouts(tasks, samples=samples, mode=mode, step=step, resources=resources)

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        self.note(f"experience {step}")
        return await super().experience(rollouts, step=step, source=source)

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        self.note(f"evaluate {label}")
        return await super().evaluate(tasks, label=label, step=step, resources=resources)

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        self.note(f"publish {'live' if live else 'candidate'} {sorted(resources)}")
        parent = await self.store.resources.live()
        return await self.store.resources.publish(
            resources,
            parent=parent.id if parent else None,
            state=ResourceState.LIVE if live else ResourceState.CANDIDATE,
            step=step,
        )

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.note(f"log {step}")
        await super().log(metrics, step=step)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        self.note(f"checkpoint {step}")
        await super().checkpoint(step, json.loads(json.dumps(state)))
        self.note(f"checkpointed {step}")

    def series(self) -> dict[str, dict[int, float]]:
        """Metrics by name and step, the newest of each."""
        found: dict[str, dict[int, float]] = {}
        for step, metrics in self.logged:
            for name, value in metrics.items():
                found.setdefault(name, {})[step] = value
        return found


def context_of(
    store: Store, *, state: Mapping[str, Json] | None = None, val: int = 0, die_at: int = 0
) -> ScriptedContext:
    def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
        del version
        episode.call([1, 2], [3], agent=("writer", "critic")[int(str(task)) % 2])
        episode.reward(random.Random(f"{episode.rollout_id}/{context.prompts}").random())

    context = ScriptedContext(
        play=play, store=store, train=list(range(4)), val=list(range(val)), state=state or {}, die_at=die_at
    )
    return context


@dataclass(kw_only=True)
class Scripted:
    """Each step: a candidate, rollouts, what they earned, a checkpoint; at the end, its last candidate goes live.

    Attributes:
        resource: What it learns; empty for nothing, and then it pins nothing.
        tasks: Tasks of a step.
        every: Steps between checkpoints.
        holds: Steps for which it keeps a candidate.
        promotes: Whether its last candidate goes live.
        fails_at: The step at which it raises.
        seen: The rollouts of each step.
    """

    name: str
    steps: int = 3
    resource: str = ""
    tasks: int = 2
    every: int = 1
    holds: int = 1
    evaluates: bool = False
    promotes: bool = True
    fails_at: int = -1
    seen: list[list[str]] = field(default_factory=list)
    experiences: list[Experience] = field(default_factory=list)

    async def fit(self, context: TrainingContext) -> None:
        step, total = int(str(context.state.get("step", 0))), float(str(context.state.get("total", 0.0)))
        if self.evaluates and not context.state:
            await context.evaluate(label="before")
        held = context.state.get("held")
        pinned = await context.store.resources.get(str(held)) if held else None
        while step < self.steps:
            if step == self.fails_at:
                raise RuntimeError("this part is broken")
            if self.resource and step % self.holds == 0:
                pinned = await self._publish(context, total, step=step, live=False)
            rollouts = await context.rollouts(
                context.train[: self.tasks], samples=2, step=step, resources=pinned
            )
            experience = await context.experience(rollouts, step=step)
            self.seen.append([rollout.id for rollout in rollouts])
            self.experiences.append(experience)
            total += sum(one.outcome or 0.0 for one in experience.trajectories)
            await context.log({"total": total, "rollouts": float(len(rollouts))}, step=step)
            step += 1
            if step % self.every == 0 or step == self.steps:
                await context.checkpoint(step, {"step": step, "total": total, "held": pinned and pinned.id})
        if self.resource and self.promotes:
            await self._publish(context, total, step=step, live=True)
        if self.evaluates:
            await context.evaluate(label="after", step=step)

    async def _publish(self, context: TrainingContext, total: float, *, step: int, live: bool) -> ResourceSet:
        current = await context.store.resources.live()
        kept = current.resources if current else {}
        own = PromptTemplate(template=f"{self.name} {total:.12f}")
        return await context.publish({**kept, self.resource: own}, step=step, live=live)  # type: ignore[dict-item]


async def run(algorithm: Algorithm, *, val: int = 0) -> ScriptedContext:
    async with open_store("memory://") as store:
        context = context_of(store, val=val)
        await algorithm.fit(context)
        return context


COMPOSITIONS: dict[str, Callable[[Sequence[Algorithm]], Algorithm]] = {
    "sequence": SequenceAlgorithm,
    "alternate": AlternateAlgorithm,
    "together": TogetherAlgorithm,
}


@pytest.mark.parametrize("how", COMPOSITIONS)
async def test_one_part_alone_does_what_it_does_without_composition(how: str) -> None:
    plain = await run(Scripted(name="a", resource="x", evaluates=True), val=2)
    composed = await run(COMPOSITIONS[how]([Scripted(name="a", resource="x", evaluates=True)]), val=2)
    assert composed.series() == plain.series()
    assert composed.reports == plain.reports
    assert [step for step, _ in composed.checkpoints][:3] == [1, 2, 3]
    rollouts = [one for one in plain.done if one.startswith("rollouts")]
    assert [one for one in composed.done if one.startswith("rollouts")] == rollouts


async def test_parts_together_learn_from_the_same_rollouts_each_by_itself() -> None:
    lead, other = Scripted(name="lead"), Scripted(name="other", resource="y", tasks=4)
    context = await run(TogetherAlgorithm([lead, other]))
    assert lead.seen == other.seen
    assert [len(one) for one in lead.seen] == [4, 4, 4]
    assert sum(one.startswith("rollouts") for one in context.done) == 3
    assert sum(one.startswith("experience") for one in context.done) == 3
    assert all(one is two for one, two in zip(lead.experiences, other.experiences, strict=True))
    assert [step for step, _ in context.logged] == [0, 1, 2]
    assert context.logged[0][1].keys() == {"total", "rollouts", "other/total", "other/rollouts"}
    assert context.series()["total"] == context.series()["other/total"]


async def test_rollouts_are_pinned_to_one_set_a_step_that_has_what_every_part_wants() -> None:
    async with open_store("memory://") as store:
        context = context_of(store)
        parts = [Scripted(name=name, resource=name) for name in "abc"]
        await TogetherAlgorithm(parts).fit(context)
        sets = [one for one in context.done if one.startswith("publish")]
        everything = ["publish candidate ['a', 'b', 'c']"] * 3 + ["publish live ['a', 'b', 'c']"]
        assert sets == everything
        live = await store.resources.live()
        assert live is not None
        assert {name: record.value["template"].split()[0] for name, record in live.resources.items()} == {  # type: ignore[union-attr]
            name: name for name in "abc"
        }


async def test_a_set_goes_live_with_what_others_have_live_and_not_with_their_candidates() -> None:
    @dataclass(kw_only=True)
    class EarlyBird(Scripted):
        async def fit(self, context: TrainingContext) -> None:
            await super().fit(context)
            live = await context.store.resources.live()
            assert live is not None
            assert set(live.resources) == {"early"}

    async with open_store("memory://") as store:
        context = context_of(store)
        early, late = (
            EarlyBird(name="early", resource="early", steps=1),
            Scripted(name="late", resource="late"),
        )
        await TogetherAlgorithm([late, early]).fit(context)
        live = await store.resources.live()
        assert live is not None
        assert set(live.resources) == {"early", "late"}
        assert live.parent is not None
        parent = await store.resources.get(live.parent)
        assert set(parent.resources) == {"early"}
        assert set(context.prompts) == {"early", "late"}


async def test_parts_that_change_one_resource_are_refused_by_name() -> None:
    parts = [Scripted(name="one", resource="x"), Scripted(name="two", resource="x")]
    with pytest.raises(ConfigError, match="'two' and 'one' both change resource 'x'"):
        await run(TogetherAlgorithm(parts))


@pytest.mark.parametrize(("lead", "other"), [(2, 4), (4, 2)])
async def test_a_part_that_ends_earlier_leaves_the_other_running(lead: int, other: int) -> None:
    parts = [
        Scripted(name="a", steps=lead, evaluates=True),
        Scripted(name="b", steps=other, resource="y", tasks=1),
    ]
    context = await run(TogetherAlgorithm(parts), val=2)
    assert [len(one.seen) for one in parts] == [lead, other]
    assert parts[0].seen[:2] == parts[1].seen[:2]
    assert sum(one.startswith("rollouts train") for one in context.done) == 4
    assert [step for step, _ in context.checkpoints] == [1, 2, 3, 4]
    assert context.checkpoints[-2][1]["parts"][0 if lead < other else 1]["ended"] is True  # type: ignore[index]
    alone = [len(one) for one in parts[0 if lead > other else 1].seen[2:]]
    assert alone == [4, 4] if lead > other else [2, 2]


@pytest.mark.parametrize("how", COMPOSITIONS)
async def test_a_part_that_fails_ends_all_and_is_named(how: str) -> None:
    ended: list[str] = []

    @dataclass(kw_only=True)
    class Tidy(Scripted):
        async def fit(self, context: TrainingContext) -> None:
            try:
                await super().fit(context)
            finally:
                ended.append(self.name)

    parts = [Tidy(name="well", steps=2), Tidy(name="ill", fails_at=1)]
    with pytest.raises(RuntimeError, match="broken") as caught:
        await run(COMPOSITIONS[how](parts))
    assert caught.value.__notes__ == ["raised by 'ill', a part of the composition"]
    assert sorted(ended) == ["ill", "well"]


async def test_an_exhausted_budget_ends_parts_that_are_together() -> None:
    @dataclass(kw_only=True)
    class PoorContext(ScriptedContext):
        async def rollouts(self, *args: object, **options: object) -> list[Rollout]:
            if sum(one.startswith("rollouts") for one in self.done) == 2:
                raise BudgetExhausted("the budget allows 8 rollouts")
            return await super().rollouts(*args, **options)  # type: ignore[arg-type]

    async with open_store("memory://") as store:
        rich = context_of(store)
        context = PoorContext(play=rich.play, store=store, train=rich.train)
        parts = [Scripted(name="a"), Scripted(name="b")]
        with pytest.raises(BudgetExhausted):
            await TogetherAlgorithm(parts).fit(context)
        assert [len(one.seen) for one in parts] == [2, 2]
        assert len(context.checkpoints) == 2


async def test_a_checkpoint_is_written_where_every_part_saves_and_others_are_told_of_once() -> None:
    parts = [Scripted(name="a", steps=6, every=2), Scripted(name="b", steps=6, every=3)]
    context = await run(TogetherAlgorithm(parts))
    assert [step for step, _ in context.checkpoints] == [6]
    (told,) = [message for kind, message in context.events if kind == "checkpoint_left_out"]
    assert told.startswith("'a' saved its state and ['b'] did not")


async def test_what_is_live_is_evaluated_once_for_all() -> None:
    parts = [Scripted(name="a", evaluates=True), Scripted(name="b", evaluates=True)]
    context = await run(TogetherAlgorithm(parts), val=2)
    assert [one for one in context.done if one.startswith("evaluate")] == [
        "evaluate before",
        "evaluate after",
    ]


async def test_parts_alternate_step_by_step() -> None:
    parts = [Scripted(name="a", steps=3, tasks=1), Scripted(name="b", steps=5, tasks=1)]
    context = await run(AlternateAlgorithm(parts, steps=2))
    logged = [(step, max(metrics)) for step, metrics in context.logged]
    order = [(0, "a"), (1, "a"), (0, "b"), (1, "b"), (2, "a"), (2, "b"), (3, "b"), (4, "b")]
    assert logged == [(step, "a/total" if name == "a" else "total") for step, name in order]
    steps = [step for step, _ in context.checkpoints]
    assert steps == sorted(steps)
    assert len(set(parts[0].seen[0]) & set(parts[1].seen[0])) == 0


async def test_rounds_end_all_parts_and_what_is_live_then_is_evaluated() -> None:
    parts = [Scripted(name="a", steps=9, evaluates=True), Scripted(name="b", steps=9)]
    context = await run(AlternateAlgorithm(parts, steps=2, rounds=2), val=2)
    assert [len(one.seen) for one in parts] == [4, 4]
    assert [one for one in context.done if one.startswith("evaluate")] == [
        "evaluate before",
        "evaluate after",
    ]


def leaf(name: str, **settings: object) -> Scripted:
    return Scripted(name=name, **settings)  # type: ignore[arg-type]


TREES: dict[str, Callable[[], Algorithm]] = {
    "together": lambda: TogetherAlgorithm(
        [leaf("a", evaluates=True), leaf("b", resource="x", steps=4), leaf("c", resource="y", steps=2)]
    ),
    "together with a candidate that is held": lambda: TogetherAlgorithm(
        [leaf("a", steps=4), leaf("b", resource="x", steps=4), leaf("c", resource="y", steps=4, holds=3)]
    ),
    "together with one that ends in vain": lambda: TogetherAlgorithm(
        [leaf("a", resource="x"), leaf("b", resource="y", steps=1, promotes=False), leaf("c", resource="z")]
    ),
    "alternate": lambda: AlternateAlgorithm(
        [leaf("a", resource="x"), leaf("b", resource="y", steps=5, evaluates=True)], steps=2
    ),
    "rounds": lambda: AlternateAlgorithm([leaf("a", resource="x", steps=9), leaf("b", steps=9)], rounds=3),
    "sequence of together": lambda: SequenceAlgorithm(
        [leaf("a", resource="x", steps=2), TogetherAlgorithm([leaf("b"), leaf("c", resource="y", steps=2)])]
    ),
    "together of sequence": lambda: TogetherAlgorithm(
        [leaf("a"), SequenceAlgorithm([leaf("b", resource="x", steps=1), leaf("c", resource="y", steps=2)])]
    ),
    "together of together": lambda: TogetherAlgorithm(
        [TogetherAlgorithm([leaf("a"), leaf("b", resource="x")]), leaf("c", resource="y")]
    ),
    "alternate of together": lambda: AlternateAlgorithm(
        [TogetherAlgorithm([leaf("a"), leaf("b", resource="x")]), leaf("c", resource="y")]
    ),
    "together of alternate": lambda: TogetherAlgorithm(
        [leaf("a", steps=4), AlternateAlgorithm([leaf("b", steps=2), leaf("c", resource="x", steps=2)])]
    ),
    "selecting": lambda: TogetherAlgorithm(
        [leaf("a"), SelectingAlgorithm(leaf("b", resource="x"), agents=["writer"], resources=["x"])]
    ),
}


@pytest.mark.parametrize("tree", TREES)
async def test_a_run_that_is_killed_anywhere_ends_with_the_same_numbers(tree: str) -> None:
    async with open_store("memory://") as store:
        whole = context_of(store, val=2)
        await TREES[tree]().fit(whole)
        live = await store.resources.live()
    assert whole.checkpoints
    for place in range(1, len(whole.done) + 1):
        async with open_store("memory://") as store:
            broken = context_of(store, val=2, die_at=place)
            with pytest.raises(KilledError):
                await TREES[tree]().fit(broken)
            state = broken.checkpoints[-1][1] if broken.checkpoints else {}
            resumed = context_of(store, val=2, state=state)
            resumed.logged = broken.logged
            await TREES[tree]().fit(resumed)
            assert resumed.series() == whole.series(), whole.done[place - 1]
            ends = await store.resources.live()
            assert (ends and ends.resources) == (live and live.resources), whole.done[place - 1]
