from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest

from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, FailureClass, TokenRecord, Trajectory
from lightning_algorithm_lightningrl._batch import Batch, make_batch
from lightning_algorithm_lightningrl.advantages import Compare, Estimator
from lightning_algorithm_lightningrl.aggregation import Aggregation, SequenceSumNorm
from lightning_algorithm_lightningrl.correction import Level, Masked, Truncated
from lightning_algorithm_lightningrl.loss_settings import Kl, KlEstimator, Placement

PIPELINE = Pipeline.from_specs(
    {spec.name: spec for spec in BUILTIN_STAGES}, load=lambda spec: load_target(spec.target)
)


def batch(*builders: EpisodeBuilder, version: int = 0, **settings: object) -> Batch:
    experience = PIPELINE.run(Experience(episodes=tuple(builder.build() for builder in builders)))
    chosen = {"version": version, "estimator": Estimator.DR_GRPO, "std_eps": 1e-6} | settings
    return make_batch(experience, **chosen)


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
    both = rollout("a", 1.0, 5), rollout("b", 0.0, 1, 2, 1)
    found = weights(batch(*both, aggregation=Aggregation.ROLLOUT_MEAN))
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
    made = batch(rollout("a", 1.0, 1), lost, aggregation=Aggregation.ROLLOUT_MEAN)
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
        "frac_credit_flat": 0.0,
        "frac_reward_zero_std": 0.0,
        "groups_of_one": 0.0,
        "rollouts/scored": 2.0,
        "rollouts/dropped": 0.0,
        "completions/mean_length": 4.0,
        "completions/min_length": 2.0,
        "completions/max_length": 6.0,
        "completions/mean_calls": 1.5,
        "completions/clipped_ratio": 0.0,
        "staleness/mean": 0.0,
        "staleness/max": 0.0,
        "advantage/mean": 0.25,
        "advantage/min": -0.5,
        "advantage/max": 0.5,
        "correction/rejected": 0.0,
        "masked_share": 0.0,
        "masked/incomplete": 0.0,
        "masked/unknown_version": 0.0,
        "masked/stale": 0.0,
        "forest/tokens_in": 14.0,
        "forest/size": 1 + 1 + 2 + 1 + 4 + 2.0,
        "forest/mismatch/rewritten": 1.0,
    }


def test_answers_that_were_cut_off_are_counted() -> None:
    builder = EpisodeBuilder(rollout_id="a", group="g")
    for reason in ("length", "stop", "tool_calls", "length"):
        record = TokenRecord.pack([1], [2], [-0.5], version=0, finish_reason=reason)
        builder.span("chat", tokens=(record,))
    builder.reward(1.0)
    assert batch(builder).metrics["completions/clipped_ratio"] == 0.5


def test_factors_that_a_stage_gave_to_tokens_are_honoured_each_and_0_leaves_out() -> None:
    builders = [rollout("a", 1.0, 2, 2), rollout("b", 0.0, 2)]
    experience = PIPELINE.run(Experience(episodes=tuple(builder.build() for builder in builders)))
    assert experience.forest is not None
    (tree,) = experience.forest.trees
    given = {0: [0.5, 0.25], 1: [0.0, 0.0], 2: [0.0, 1.0]}
    column = [0.0] * len(tree)
    for place, call in enumerate(tree.calls):
        column[call.start : call.stop] = given[place]
    weighed = replace(experience, forest=experience.forest.with_column("weights", [column]))
    made = make_batch(weighed, version=0, estimator=Estimator.DR_GRPO)
    (tree,) = made.forest.trees
    for place, call in enumerate(tree.calls):
        assert list(tree.weights[call.start : call.stop]) == pytest.approx([one / 6 for one in given[place]])


def test_a_pipeline_without_a_forest_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs the stages group and forest"):
        make_batch(Experience(), version=0, estimator=Estimator.GRPO, std_eps=1e-6)


@pytest.mark.parametrize("stage", ["rewards", "credit"])
def test_experience_without_rewards_or_credit_is_refused(stage: str) -> None:
    experience = PIPELINE.run(
        Experience(episodes=(rollout("a", 1.0, 1).build(), rollout("b", 0.0, 1).build()))
    )
    (group,) = experience.groups
    bare = tuple(_without(trajectory, stage) for trajectory in group.trajectories)
    experience = replace(experience, groups=(msgspec.structs.replace(group, trajectories=bare),))
    with pytest.raises(ConfigError, match=f"stage {stage}"):
        make_batch(experience, version=0, estimator=Estimator.GRPO, std_eps=1e-6)


def _without(trajectory: Trajectory, stage: str) -> Trajectory:
    if stage == "rewards":
        return msgspec.structs.replace(trajectory, outcome=None, episode_return=None)
    bare = tuple(msgspec.structs.replace(step, credit=None) for step in trajectory.transitions)
    return msgspec.structs.replace(trajectory, transitions=bare)


def settled(*builders: EpisodeBuilder, **settings: object) -> Batch:
    experience = PIPELINE.run(Experience(episodes=tuple(builder.build() for builder in builders)))
    assert experience.forest is not None
    apart = [[value - 0.7 for value in tree.logprobs] for tree in experience.forest.trees]
    forest = experience.forest.with_column("old_logprobs", apart)
    chosen = {"version": 0, "estimator": Estimator.DR_GRPO} | settings
    return make_batch(replace(experience, forest=forest), **chosen)


def test_a_correction_changes_the_weights_of_its_tokens_and_no_denominator() -> None:
    plain = weights(settled(rollout("a", 1.0, 2), rollout("b", 0.0, 1, 1)))
    found = weights(settled(rollout("a", 1.0, 2), rollout("b", 0.0, 1, 1), corrections=[Truncated()]))
    for call, (advantage, weight) in plain.items():
        assert found[call] == (advantage, pytest.approx(weight * math.exp(-0.7)))


def test_what_is_rejected_is_not_trained_and_counted() -> None:
    # the ratio of a call is exp(-0.7) per token
    made = settled(
        rollout("a", 1.0, 2), rollout("b", 0.0, 1), corrections=[Masked(low=0.3, high=2.0, level=Level.CALL)]
    )
    assert {call: weight > 0 for call, (_, weight) in weights(made).items()} == {
        "a-1/01": False,
        "b-1/01": True,
    }
    assert made.trained == 1
    assert made.metrics["correction/rejected"] == pytest.approx(2 / 3)


def test_calls_within_the_staleness_bound_are_trained() -> None:
    old, older = rollout("a", 1.0, 1, version=2), rollout("b", 0.0, 1, version=1)
    made = settled(old, older, version=3, max_staleness=1)
    assert made.masked == {"incomplete": 0, "unknown_version": 0, "stale": 1}
    assert made.metrics["staleness/mean"] == 1.5
    assert made.metrics["staleness/max"] == 2.0


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (Aggregation.TOKEN_MEAN, [1 / 8, 1 / 8, 1 / 8]),
        (Aggregation.SEQUENCE_MEAN, [1 / 15, 1 / 3, 1 / 6]),
        (Aggregation.ROLLOUT_MEAN, [1 / 10, 1 / 6, 1 / 6]),
        (SequenceSumNorm(length=100), [1 / 200, 1 / 200, 1 / 200]),
    ],
)
def test_what_counts_the_same_is_in_the_weights(
    aggregation: Aggregation | SequenceSumNorm, expected: list[float]
) -> None:
    made = settled(rollout("a", 1.0, 5), rollout("b", 0.0, 1, 2), aggregation=aggregation)
    assert [weight for _, weight in weights(made).values()] == pytest.approx(expected)


def test_each_agent_is_compared_with_its_own_kind() -> None:
    def team(name: str, reward: float, writers: int) -> EpisodeBuilder:
        builder = EpisodeBuilder(rollout_id=name, group="g")
        for number, agent in enumerate(["planner", *["writer"] * writers]):
            parent = builder.span("invoke_agent", agent=agent)
            builder.call([7, number], [3], parent=parent)
        builder.reward(reward)
        return builder

    made = settled(team("a", 1.0, 1), team("b", 0.0, 0), team("c", 0.0, 2), compare=Compare.AGENT)
    found = [advantage for advantage, _ in weights(made).values()]
    assert found == pytest.approx([2 / 3, 1 / 2, -1 / 3, -1 / 3, -1 / 2, -1 / 2])


def test_the_divergence_of_a_rollout_lowers_its_return() -> None:
    experience = PIPELINE.run(
        Experience(episodes=(rollout("a", 1.0, 2).build(), rollout("b", 1.0, 1).build()))
    )
    assert experience.forest is not None
    reference = [[value - 0.1 for value in tree.logprobs] for tree in experience.forest.trees]
    forest = experience.forest.with_column("reference_logprobs", reference)
    kl = Kl(coefficient=0.5, estimator=KlEstimator.K1, placement=Placement.REWARD)
    made = make_batch(
        replace(experience, forest=forest), version=0, estimator=Estimator.DR_GRPO, kl_in_reward=kl
    )
    assert [advantage for advantage, _ in weights(made).values()] == pytest.approx([-0.025, 0.025], abs=1e-6)
    assert made.metrics["kl_reward"] == pytest.approx(0.1)
