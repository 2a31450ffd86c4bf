"""What is read from experience, what is held out, and what a decision is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Episode, Experience, Json
from lightning_algorithm_lightningrl.decisions import DecisionsConfig, logged
from lightning_algorithm_lightningrl.decisions._learner import DecisionLearner


def decision(episode: EpisodeBuilder, choice: str = "a", **attributes: Json) -> str:
    known: dict[str, Json] = {
        "agl.decision.name": "tool",
        "agl.decision.options": ["a", "b"],
        "agl.decision.choice": choice,
        "agl.decision.propensity": 0.5,
    }
    return episode.span("agl.decision", attributes=known | attributes)


def episode(name: str, *, group: str = "g", choices: str = "a", reward: float | None = 1.0) -> Episode:
    builder = EpisodeBuilder(rollout_id=name, group=group)
    for choice in choices:
        decision(builder, choice)
    if reward is not None:
        builder.reward(reward)
    return builder.build()


def experience(episodes: Sequence[Episode], *, credit: Mapping[str, Json] | None = None) -> Experience:
    chosen = ("join", "order", "select", "transitions", "rewards", "credit")
    pipeline = Pipeline.from_specs(
        {spec.name: spec for spec in BUILTIN_STAGES},
        load=lambda spec: load_target(spec.target),
        chosen=[(name, dict(credit or {}) if name == "credit" else {}) for name in chosen],
    )
    return pipeline.run(Experience(episodes=tuple(episodes)))


def learner(**settings: object) -> DecisionLearner:
    return DecisionLearner(DecisionsConfig(**settings), state={}, incumbent=None)  # type: ignore[arg-type]


def advantages(episodes: Sequence[Episode], **settings: object) -> list[float]:
    rollouts, _ = logged(experience(episodes))
    return [choice.advantage for choice in learner(**settings)._choices(rollouts)]


def test_decisions_are_read_with_their_credit_context_and_propensity() -> None:
    builder = EpisodeBuilder(rollout_id="r", group="g")
    decision(builder, "b", **{"agl.state": {"turn": 1}, "agl.decision.propensity": 0.25})
    builder.reward(0.5)
    (rollout,), left = logged(experience([builder.build()]))
    (found,) = rollout.decisions
    assert (rollout.group, rollout.value, left) == ("g", 0.5, {})
    assert (found.name, found.options, found.index) == ("tool", ("a", "b"), 1)
    assert (found.context, found.propensity, found.credit) == ({"turn": 1}, 0.25, 0.5)


def test_the_credit_is_that_of_the_pipeline() -> None:
    builder = EpisodeBuilder(rollout_id="r")
    for reward in (0.25, 1.0):
        builder.reward(reward, target=decision(builder))
    made = experience([builder.build()], credit={"mode": "per_step"})
    (rollout,), _ = logged(made)
    assert [one.credit for one in rollout.decisions] == [1.25, 1.0]


def test_an_option_that_is_there_twice_is_told_by_its_index() -> None:
    builder = EpisodeBuilder()
    decision(builder, **{"agl.decision.options": ["a", "a"], "agl.decision.index": 1})
    builder.reward(1.0)
    (rollout,), _ = logged(experience([builder.build()]))
    assert rollout.decisions[0].index == 1


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"agl.decision.choice": "c"}, "its choice is not among its options"),
        ({"agl.decision.options": None}, "its choice is not among its options"),
        ({"agl.decision.index": 2}, "its choice is not among its options"),
        ({"agl.decision.propensity": None}, "it has no propensity"),
        ({"agl.decision.propensity": 0.0}, "it has no propensity"),
    ],
)
def test_what_cannot_be_learned_from_is_left_out_and_counted(
    attributes: dict[str, Json], reason: str
) -> None:
    builder = EpisodeBuilder()
    decision(builder, **attributes)
    decision(builder)
    builder.reward(1.0)
    (rollout,), left = logged(experience([builder.build()]))
    assert len(rollout.decisions) == 1
    assert left == {reason: 1}


def test_other_decisions_are_not_read_where_points_are_named() -> None:
    (rollout,), left = logged(experience([episode("r")]), points=["branch"])
    assert (rollout.decisions, left) == ((), {})


def test_a_pipeline_without_credit_is_refused() -> None:
    stages = Pipeline.from_specs(
        {spec.name: spec for spec in BUILTIN_STAGES},
        load=lambda spec: load_target(spec.target),
        chosen=[(name, {}) for name in ("transitions", "rewards")],
    )
    with pytest.raises(ConfigError, match="needs the stage credit"):
        logged(stages.run(Experience(episodes=(episode("r"),))))


def test_a_decision_is_compared_with_the_other_rollouts_of_its_group() -> None:
    episodes = [episode("0", reward=1.0), episode("1", reward=0.0), episode("2", reward=0.5)]
    episodes += [episode("3", group="h", reward=7.0), episode("4", group="h", reward=5.0)]
    assert advantages(episodes) == pytest.approx([0.75, -0.75, 0.0, 2.0, -2.0])


def test_a_rollout_counts_once_in_the_baseline_however_often_it_decided() -> None:
    episodes = [
        episode("0", choices="aaaa", reward=1.0),
        episode("1", reward=0.0),
        episode("2", reward=0.0),
    ]
    assert advantages(episodes) == pytest.approx([1.0] * 4 + [-0.5, -0.5])


def test_without_others_the_learned_baseline_stands_in() -> None:
    one = learner()
    rollouts, _ = logged(experience([episode("0", reward=1.0)]))
    found = [one._choices(rollouts)[0].advantage for _ in range(30)]
    assert found[0] == 1.0
    assert found[-1] == pytest.approx(0.0, abs=0.05)
    assert advantages([episode("0", reward=1.0), episode("1", reward=0.0)], baseline="none") == [1.0, 0.0]


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=12),
    share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
    window=st.integers(1, 12),
)
def test_whole_groups_are_held_out_at_their_share(sizes: list[int], share: float, window: int) -> None:
    one = learner(holdout=share, window=window, promote="always")
    rollouts, _ = logged(
        experience(
            [
                episode(f"{group}-{sample}", group=str(group))
                for group, size in enumerate(sizes)
                for sample in range(size)
            ]
        )
    )
    learned = one._hold_out(rollouts)
    trained = {rollout.group for rollout in learned}
    held = {rollout.group for rollout in one.state.window}
    assert not trained & held
    assert len(sizes) - len(trained) == int(len(sizes) * share + 1e-9)
    assert len(one.state.window) == min(window, len(rollouts) - len(learned))


def test_a_saved_learner_goes_on_as_if_it_had_not_stopped() -> None:
    def batch(step: int) -> Experience:
        return experience(
            [
                episode(f"{step}-{n}", group=f"{step}-{n % 3}", choices="ab"[n % 2], reward=float(n % 2))
                for n in range(9)
            ]
        )

    whole, config = learner(holdout=0.3), DecisionsConfig(holdout=0.3)
    for step in range(2):
        whole.learn(batch(step))
    saved = json.loads(json.dumps(whole.saved(), allow_nan=False))
    restored = DecisionLearner(config, state=saved, incumbent=None)
    assert whole.learn(batch(2)) == restored.learn(batch(2))
    assert whole.policy == restored.policy
    assert whole.saved() == restored.saved()
