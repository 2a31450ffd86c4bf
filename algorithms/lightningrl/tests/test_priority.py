"""Prioritised replay of stored groups: what is drawn, and how its weights reach the loss."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.replay import Candidate
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience
from lightning_algorithm_lightningrl import create
from lightning_algorithm_lightningrl._batch import make_batch
from lightning_algorithm_lightningrl._modes import Offline, Order
from lightning_algorithm_lightningrl._replayed import Replayed
from lightning_algorithm_lightningrl._sources import _weighted
from lightning_algorithm_lightningrl.advantages import Estimator

PIPELINE = Pipeline.from_specs(
    {spec.name: spec for spec in BUILTIN_STAGES}, load=lambda spec: load_target(spec.target)
)


def replayed(spreads: list[float], **settings_: float) -> Replayed:
    """Groups of two rollouts whose rewards are a spread away from their mean."""
    groups = {
        f"g{index}": [
            Candidate(id=f"{index}-{sign}", group=f"g{index}", reward=1.0 + sign * spread) for sign in (-1, 1)
        ]
        for index, spread in enumerate(spreads)
    }
    return Replayed(source=None, groups=groups, chosen=Offline(order=Order.PRIORITY, **settings_))


@settings(deadline=None)
@given(
    spreads=st.lists(st.floats(0, 10), min_size=1, max_size=6),
    count=st.integers(1, 6),
    step=st.integers(0, 99),
    exponent=st.floats(0, 2),
)
def test_step_and_seed_say_which_groups_are_drawn(
    spreads: list[float], count: int, step: int, exponent: float
) -> None:
    found = replayed(spreads, exponent=exponent)
    drawn = found.draw(count, step=step, seed=7)
    assert drawn == replayed(spreads, exponent=exponent).draw(count, step=step, seed=7)
    assert len({one.rollouts for one in drawn}) == len(drawn) == min(count, len(spreads))
    assert all(0.0 < one.weight <= 1.0 for one in drawn)


def test_the_more_the_rewards_differ_the_more_often_a_group_is_drawn() -> None:
    found = replayed([0.99, 0.09, 0.0], exponent=1.0)
    draws = 3_000
    drawn = [one.rollouts[0] for step in range(draws) for one in found.draw(1, step=step, seed=0)]
    for name, share in (("0--1", 1.0 / 1.11), ("1--1", 0.1 / 1.11), ("2--1", 0.01 / 1.11)):
        margin = 4 * math.sqrt(share * (1 - share) / draws)
        assert drawn.count(name) / draws == pytest.approx(share, abs=margin)


def test_exponent_zero_draws_all_alike_and_weighs_nothing() -> None:
    found = replayed([5.0, 0.5, 0.0], exponent=0.0)
    drawn = [one for step in range(3_000) for one in found.draw(1, step=step, seed=0)]
    assert {one.weight for one in drawn} == {1.0}
    for index in range(3):
        share = sum(one.rollouts[0].startswith(f"{index}-") for one in drawn) / len(drawn)
        assert share == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / len(drawn)))


def test_weighted_updates_are_a_multiple_of_what_uniform_ones_are_on_average() -> None:
    values = [4.0, 1.0, -2.0, 0.5]  # what each group would add to the gradient
    found = replayed([2.0, 0.5, 0.1, 0.0], exponent=0.6, importance=1.0)
    estimates = [
        fmean(one.weight * values[int(one.rollouts[0][0])] for one in found.draw(2, step=step, seed=1))
        for step in range(6_000)
    ]
    ones = [fmean(one.weight for one in found.draw(2, step=step, seed=1)) for step in range(6_000)]
    # the mean weight is the multiple
    margin = 4 * stdev(estimates) / math.sqrt(len(estimates)) + abs(fmean(values)) * 4 * stdev(ones) / 77
    assert fmean(estimates) == pytest.approx(fmean(ones) * fmean(values), abs=margin)
    biased = replayed([2.0, 0.5, 0.1, 0.0], exponent=0.6, importance=0.0)
    plain = [
        fmean(values[int(one.rollouts[0][0])] for one in biased.draw(2, step=step, seed=1))
        for step in range(2_000)
    ]
    assert fmean(plain) > fmean(values) + 0.2


def test_a_weight_is_a_factor_on_every_token_of_its_rollouts() -> None:
    episodes = []
    for name, group, reward in (("a", "x", 1.0), ("b", "x", 0.0), ("c", "y", 1.0), ("d", "y", 0.0)):
        builder = EpisodeBuilder(rollout_id=name, group=group)
        builder.call([1, 2], [3, 4])
        builder.reward(reward)
        episodes.append(builder.build())
    experience = PIPELINE.run(Experience(episodes=tuple(episodes)))
    weights = {"a": 1.0, "b": 1.0, "c": 0.25, "d": 0.25}

    def tokens(one: Experience) -> dict[str, list[tuple[float, float]]]:
        made = make_batch(one, version=None, estimator=Estimator.DR_GRPO)
        return {
            call.rollout_id: list(
                zip(
                    tree.advantages[call.start : call.stop], tree.weights[call.start : call.stop], strict=True
                )
            )
            for tree in made.forest.trees
            for call in tree.calls
        }

    before, after = tokens(experience), tokens(_weighted(experience, weights))
    for name, factor in weights.items():
        assert after[name] == [(advantage, weight * factor) for advantage, weight in before[name]]


def test_settings_of_priorities_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"exponent is 0\.5, and order 'recent' has no priorities"):
        create({"offline": {"order": "recent", "exponent": 0.5}})
    with pytest.raises(ConfigError, match="importance is 1"):
        create({"offline": {"importance": 1.0}})
