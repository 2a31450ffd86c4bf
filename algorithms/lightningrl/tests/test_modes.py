"""Rollouts beside the learner, from a store, and groups that are worth an update."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentlightning.engine import LossSpec
from agentlightning.errors import BudgetExhausted, ConfigError
from agentlightning.store import Store, open_store
from agentlightning.testing import EpisodeBuilder, InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import Json, Mode, ResourceSet, Rollout, TokenForest
from lightning_algorithm_lightningrl import create

SMALL: dict[str, Json] = {"updates": 6, "tasks_per_update": 2, "group_size": 4, "checkpoint_every": 2}
ASYNC = SMALL | {"max_staleness": 2}


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
    """One call, and success by chance that depends on nothing but the rollout."""
    rng = random.Random(episode.rollout_id)
    episode.call([1, 2, 3], [rng.randrange(9) for _ in range(3)], version=version)
    episode.reward(float(rng.random() < 0.5))


@dataclass(kw_only=True)
class Slow(InMemoryTrainingContext):
    """A run whose rollouts end when the learner has waited for them, in an order that the seed of the test decides.

    Attributes:
        begun: Steps of the groups in the order in which they began, with the version at that time.
        delays: Passes through the event loop that a group takes, by step.
        most: Groups that can be begun before the budget is exhausted.
    """

    begun: list[tuple[int, int]] = field(default_factory=list)
    delays: dict[int, int] = field(default_factory=dict)
    most: int = 10_000

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        if len(self.begun) >= self.most:
            raise BudgetExhausted("no more rollouts")
        assert self.engine is not None
        self.begun.append((step, self.engine.version))
        played = await super().rollouts(tasks, samples=samples, mode=mode, step=step, resources=resources)
        for _ in range(self.delays.get(step, 1)):
            await asyncio.sleep(0)
        return played


@dataclass(kw_only=True)
class Noting(InMemoryLearner):
    """A learner that notes which groups it has trained, and with which staleness."""

    trained: list[str] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)

    async def forward_backward(self, forest: TokenForest, loss: LossSpec) -> dict[str, float]:
        for _ in range(5):
            await asyncio.sleep(0)
        self.trained += [tree.group for tree in forest.trees]
        self.staleness += [
            self.engine.version - version
            for tree in forest.trees
            for version, weight in zip(tree.versions, tree.weights, strict=True)
            if weight
        ]
        return await super().forward_backward(forest, loss)


def context(store: Store, **changes: object) -> Slow:
    engine = InMemoryEngine()
    settings = {
        "play": play,
        "store": store,
        "train": list(range(5)),
        "engine": engine,
        "learner": Noting(engine=engine),
    }
    return Slow(**(settings | changes))


def learner_of(made: InMemoryTrainingContext) -> Noting:
    assert isinstance(made.learner, Noting)
    return made.learner


def series(made: InMemoryTrainingContext, name: str) -> list[float]:
    return [metrics[name] for _, metrics in made.logged]


async def test_rollouts_go_on_while_the_learner_learns_and_none_is_too_old(store: Store) -> None:
    made = context(store)
    await create(ASYNC).fit(made)
    assert len(made.logged) == 6
    assert max(learner_of(made).staleness) == 2
    assert min(learner_of(made).staleness) == 0
    assert [step for step, _ in made.begun] == list(range(12))
    assert all(0 <= step // 2 - version <= 2 for step, version in made.begun)
    assert Counter(learner_of(made).trained).most_common(1)[0][1] == 1
    assert series(made, "masked/stale") == [0.0] * 6


async def test_a_group_that_takes_too_long_is_left_out_whole_and_counted(store: Store) -> None:
    made = context(store, delays={1: 200})
    await create(ASYNC | {"updates": 12}).fit(made)
    assert "train-1-0" not in learner_of(made).trained
    assert sum(series(made, "groups/stale")) == 1.0
    assert max(learner_of(made).staleness) <= 2
    assert series(made, "masked/stale") == [0.0] * 12


async def test_groups_that_have_ended_are_carried_over_whole(store: Store) -> None:
    made = context(store, delays={0: 30, 1: 30})
    await create(ASYNC).fit(made)
    assert max(series(made, "groups/carried")) > 0
    assert len(learner_of(made).trained) == len(set(learner_of(made).trained))


async def test_the_same_tasks_come_in_the_same_order_in_both_modes(store: Store) -> None:
    tasks: dict[str, list[Json]] = {"in turn": [], "beside": []}
    for name, params in (("in turn", SMALL), ("beside", ASYNC)):

        def noted(task: Json, episode: EpisodeBuilder, version: int, into: list[Json] = tasks[name]) -> None:
            into.append(task)
            play(task, episode, version)

        await create(params).fit(context(store, play=noted))
    assert tasks["in turn"] == tasks["beside"]


@pytest.mark.parametrize("checkpoint", [0, 1])
async def test_a_resumed_run_trains_every_group_once(store: Store, tmp_path: Path, checkpoint: int) -> None:
    whole = context(store, directory=tmp_path / "whole", delays={3: 9, 5: 2})
    await create(ASYNC).fit(whole)
    step, state = whole.checkpoints[checkpoint]
    source = state["source"]
    assert isinstance(source, dict)
    still_open = [one["place"] for one in source["ended"]] + source["under_way"]
    before = len(learner_of(whole).trained) * step // 6
    done = learner_of(whole).trained[: before or None][: step * 2]
    resumed = context(store, state=state)
    await learner_of(resumed).load_state(tmp_path / "whole" / str(step))
    await create(ASYNC).fit(resumed)
    again = learner_of(resumed).trained
    assert sorted({int(group.split("-")[1]) for group in done + again}) == list(range(12))
    assert len(done + again) == 12
    assert [place for place, _ in resumed.begun][: len(still_open)] == still_open


async def test_an_exhausted_budget_ends_the_run_after_what_was_begun_is_learned(store: Store) -> None:
    made = context(store, most=5)
    with pytest.raises(BudgetExhausted):
        await create(ASYNC).fit(made)
    assert sum(len(forest.trees) for forest, _ in learner_of(made).batches) == 5


async def test_weights_change_in_flight_only_where_the_engine_can(store: Store) -> None:
    params = ASYNC | {"asynchronous": {"in_flight": True}}
    with pytest.raises(ConfigError, match="InMemoryEngine does not do"):
        await create(params).fit(context(store))

    @dataclass(kw_only=True)
    class Swapping(InMemoryEngine):
        updates_in_flight: str = "between two tokens"

    engine = Swapping()
    made = context(store, engine=engine, learner=Noting(engine=engine))
    await create(params).fit(made)
    assert engine.version == 6
    assert made.updates == 0


def flat(task: Json, episode: EpisodeBuilder, version: int) -> None:
    """Tasks 0 and 1 are always solved; the others as `play` has it."""
    rng = random.Random(episode.rollout_id)
    episode.call([1], [rng.randrange(9)], version=version)
    episode.reward(1.0 if task in (0, 1) else float(episode.sample % 2))


async def test_groups_that_teach_nothing_are_replaced_up_to_a_bound(store: Store) -> None:
    plain = context(store, play=flat)
    await create(SMALL).fit(plain)
    flat_share = series(plain, "frac_credit_flat")
    assert max(flat_share) > 0
    made = context(store, play=flat)
    await create(SMALL | {"selection": {"replace_flat": 4}}).fit(made)
    assert series(made, "frac_credit_flat") == [0.0] * 6
    assert sum(series(made, "groups/replaced")) > 0
    assert all(len(forest.trees) == 2 for forest, _ in learner_of(made).batches)


async def test_a_batch_keeps_what_is_flat_beyond_the_bound(store: Store) -> None:
    def same(task: Json, episode: EpisodeBuilder, version: int) -> None:
        episode.call([1], [2], version=version)
        episode.reward(1.0)

    made = context(store, play=same)
    await create(SMALL | {"selection": {"replace_flat": 3}}).fit(made)
    assert series(made, "groups/replaced") == [3.0] * 6
    assert series(made, "frac_credit_flat") == [1.0] * 6
    assert len(made.begun) == 6 * 5


async def test_what_a_sparing_update_learns_is_the_same_when_it_is_repeated_from_a_checkpoint(
    store: Store, tmp_path: Path
) -> None:
    params = SMALL | {"selection": {"replace_flat": 2, "curriculum": {"keep": 0.2}}}
    whole = context(store, play=flat, directory=tmp_path / "whole")
    await create(params).fit(whole)
    step, state = whole.checkpoints[1]
    resumed = context(store, play=flat, state=state)
    await learner_of(resumed).load_state(tmp_path / "whole" / str(step))
    await create(params).fit(resumed)
    assert resumed.logged == whole.logged[step:]


async def test_a_curriculum_passes_over_what_is_too_easy(store: Store) -> None:
    played: dict[str, Counter[Json]] = {"all": Counter(), "some": Counter()}
    for name, selection in (("all", {}), ("some", {"curriculum": {"keep": 0.1}})):

        def noted(task: Json, episode: EpisodeBuilder, version: int, name: str = name) -> None:
            played[name][task] += 1
            flat(task, episode, version)

        made = context(store, play=noted)
        await create(SMALL | {"updates": 20, "selection": selection}).fit(made)
    assert played["all"][0] + played["all"][1] == 16 * 4
    assert played["some"][0] + played["some"][1] <= 8 * 4
    assert sum(series(made, "groups/passed_over")) > 0
