from __future__ import annotations

import pytest

from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, FailureClass
from lightning_algorithm_lightningrl._batch import Batch, make_batch
from lightning_algorithm_lightningrl.advantages import Estimator

PIPELINE = Pipeline.from_specs(
    {spec.name: spec for spec in BUILTIN_STAGES}, load=lambda spec: load_target(spec.target)
)


def batch(*builders: EpisodeBuilder, version: int = 0) -> Batch:
    experience = PIPELINE.run(Experience(episodes=tuple(builder.build() for builder in builders)))
    return make_batch(experience, version=version, estimator=Estimator.DR_GRPO, std_eps=1e-6)


def rollout(name: str, reward: float, *answers: int, group: str = "g", version: int = 0) -> EpisodeBuilder:
    """A rollout with one call per number, each sampling that many tokens."""
    builder = EpisodeBuilder(rollout_id=name, group=group)
    for number, size in enumerate(answers):
        builder.call([7, number], [3] * size, version=version)
    builder.reward(reward)
    return builder


def weights(made: Batch) -> dict[str, tuple[float, float]]:
    """Advantage and weight of each call's tokens, by call."""
    return {
        call.transition_id[:-15] + call.transition_id[-1]: (
            tree.advantages[call.start],
            tree.weights[call.start],
        )
        for tree in made.forest.trees
        for call in tree.calls
    }


def test_each_rollout_counts_the_same_however_long_it_is() -> None:
    found = weights(batch(rollout("a", 1.0, 5), rollout("b", 0.0, 1, 2, 1)))
    assert found == {
        "a-1/01": (0.5, pytest.approx(1 / 10)),
        "b-1/01": (-0.5, pytest.approx(1 / 8)),
        "b-1/02": (-0.5, pytest.approx(1 / 8)),
        "b-1/03": (-0.5, pytest.approx(1 / 8)),
    }


def test_long_rollouts_do_not_pull_the_baseline() -> None:
    # over calls the mean would be 0.25; over rollouts it is 0.5
    found = weights(batch(rollout("a", 1.0, 1), rollout("b", 0.0, 1, 1, 1)))
    assert {advantage for advantage, _ in found.values()} == {0.5, -0.5}


def test_a_rollout_whose_calls_are_all_incomplete_still_counts_in_its_group() -> None:
    lost = EpisodeBuilder(rollout_id="lost", group="g")
    lost.call([1], [2], incomplete="the client left")
    lost.reward(0.0)
    made = batch(rollout("a", 1.0, 1), lost)
    assert weights(made) == {"a-1/01": (0.5, 0.5)}
    assert made.metrics["masked/incomplete"] == 1.0
    assert made.masked_share == 0.5


def test_calls_of_another_or_an_unknown_version_are_masked_and_counted() -> None:
    made = batch(
        rollout("a", 1.0, 1, version=3),
        rollout("b", 0.0, 1, version=2),
        rollout("c", 0.0, 1, version=-1),
        version=3,
    )
    assert {name: weight > 0 for name, (_, weight) in weights(made).items()} == {
        "a-1/01": True,
        "b-1/01": False,
        "c-1/01": False,
    }
    assert made.masked == {"incomplete": 0, "unknown_version": 1, "stale": 1}
    assert made.masked_share == pytest.approx(2 / 3)
    assert made.trained == 1


def test_a_group_with_equal_returns_is_not_computed_at_all() -> None:
    made = batch(rollout("a", 1.0, 2), rollout("b", 1.0, 2), rollout("c", 1.0, 2, group="h"))
    assert made.trained == 0
    assert all(weight == 0.0 for tree in made.forest.trees for weight in tree.weights)
    assert made.metrics["frac_reward_zero_std"] == 1.0
    assert made.metrics["groups_of_one"] == 1.0


def test_failures_are_no_zeros() -> None:
    failed = EpisodeBuilder(rollout_id="failed", group="g", failure=FailureClass.LOST)
    made = batch(rollout("a", 1.0, 1), rollout("b", 0.0, 1), failed)
    assert made.metrics["reward"] == 0.5
    assert made.metrics["rollouts/scored"] == 2.0
    assert made.metrics["rollouts/dropped"] == 1.0


def test_what_happened_is_counted() -> None:
    made = batch(rollout("a", 1.0, 2, 4), rollout("b", 0.0, 2))
    assert made.metrics == {
        "reward": 0.5,
        "reward_std": pytest.approx(0.5**0.5),
        "frac_reward_zero_std": 0.0,
        "groups_of_one": 0.0,
        "rollouts/scored": 2.0,
        "rollouts/dropped": 0.0,
        "completions/mean_length": 4.0,
        "completions/mean_calls": 1.5,
        "masked_share": 0.0,
        "masked/incomplete": 0.0,
        "masked/unknown_version": 0.0,
        "masked/stale": 0.0,
        "forest/tokens_in": 14.0,
        "forest/size": 1 + 1 + 2 + 1 + 4 + 2.0,
        "forest/mismatch/rewritten": 1.0,
    }


def test_a_pipeline_without_a_forest_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs the stages group and forest"):
        make_batch(Experience(), version=0, estimator=Estimator.GRPO, std_eps=1e-6)


@pytest.mark.parametrize(("stage", "message"), [("rewards", "stage rewards"), ("credit", "stage credit")])
def test_a_pipeline_without_rewards_or_credit_is_refused(stage: str, message: str) -> None:
    short = PIPELINE.without("credit") if stage == "credit" else PIPELINE.without("rewards").without("credit")
    experience = short.run(Experience(episodes=(rollout("a", 1.0, 1).build(), rollout("b", 0.0, 1).build())))
    with pytest.raises(ConfigError, match=message):
        make_batch(experience, version=0, estimator=Estimator.GRPO, std_eps=1e-6)
