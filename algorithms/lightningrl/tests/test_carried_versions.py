"""Groups that are carried over a resume: their age is counted in updates, not in versions that were skipped."""

from __future__ import annotations

import pytest

from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.store import open_store
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder, InMemoryTrainingContext
from agentlightning.types import Experience, RolloutRequest
from lightning_algorithm_lightningrl._batch import make_batch
from lightning_algorithm_lightningrl._flow import Flow, PlayedGroup
from lightning_algorithm_lightningrl._sources import _numbered_on
from lightning_algorithm_lightningrl._tasks import TaskOrder
from lightning_algorithm_lightningrl.advantages import Estimator

PIPELINE = Pipeline.from_specs(
    {spec.name: spec for spec in BUILTIN_STAGES}, load=lambda spec: load_target(spec.target)
)


async def test_what_was_skipped_adds_up_over_resumes() -> None:
    async with open_store("memory://") as store:
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task="a")])
        context = InMemoryTrainingContext(play=lambda *_: None, store=store, train=["a"])
        skipped = []
        state = {"ended": [{"place": 0, "rollouts": [rollout.id]}]}
        for more in (0, 3, 2):
            flow = Flow(context, order=TaskOrder(tasks=["a"], seed=0), samples=1)
            await flow.restore(state, skipped=more)
            state = flow.state()
            skipped += [group.skipped for group in await flow.take(1)]
        assert skipped == [0, 3, 5]


@pytest.mark.parametrize(("skipped", "stale"), [(0, 1), (5, 0)])
def test_a_carried_group_is_as_old_as_the_updates_since(skipped: int, stale: int) -> None:
    episodes, rollouts = [], []
    for name, version, reward in (("old", 4, 1.0), ("new", 10, 0.0)):
        builder = EpisodeBuilder(rollout_id=name, group=name)
        builder.call([1, 2], [3], version=version)
        builder.reward(reward)
        episodes.append(builder.build())
        rollouts.append(episodes[-1].rollout)
    groups = [
        PlayedGroup(place=0, rollouts=(rollouts[0],), skipped=skipped),
        PlayedGroup(place=1, rollouts=(rollouts[1],)),
    ]
    experience = _numbered_on(PIPELINE.run(Experience(episodes=tuple(episodes))), groups)
    # 9 are the weights of 4, which were loaded, and 10 is one update later
    made = make_batch(experience, version=10, estimator=Estimator.REINFORCE, max_staleness=1)
    assert made.masked["stale"] == stale
    assert made.metrics["staleness/max"] == (6.0 if stale else 1.0)
