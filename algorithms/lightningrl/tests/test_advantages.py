from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.errors import ConfigError
from lightning_algorithm_lightningrl.advantages import (
    Estimator,
    gdpo_advantages,
    group_advantages,
    rae_advantages,
)

RETURNS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=8)


def advantages(returns: list[float], estimator: str, std_eps: float = 1e-6) -> list[float]:
    """Of one decision per rollout, with the outcome as its credit."""
    found = group_advantages([[value] for value in returns], estimator=Estimator(estimator), std_eps=std_eps)
    return [value for (value,) in found]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("grpo", [0.866024, -0.866024, -0.866024, 0.866024]),
        ("dr_grpo", [0.5, -0.5, -0.5, 0.5]),
        ("rloo", [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
        ("maxrl", [1.0, -1.0, -1.0, 1.0]),
        ("reinforce_pp_baseline", [0.5, -0.5, -0.5, 0.5]),
        ("reinforce", [1.0, 0.0, 0.0, 1.0]),
    ],
)
def test_two_of_four_right_by_hand(estimator: str, expected: list[float]) -> None:
    assert advantages([1.0, 0.0, 0.0, 1.0], estimator) == pytest.approx(expected, abs=1e-6)


def test_grpo_divides_by_the_sample_standard_deviation() -> None:
    # sample std of [1, 0, 0, 0] is exactly 0.5, the population's would be 0.433
    assert advantages([1.0, 0.0, 0.0, 0.0], "grpo", 0.0) == [1.5, -0.5, -0.5, -0.5]


def test_a_larger_eps_is_what_trl_uses() -> None:
    assert advantages([1.0, 0.0, 0.0, 1.0], "grpo", 1e-4)[0] == pytest.approx(0.865875, abs=1e-6)


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo"])
@pytest.mark.parametrize("returns", [[0.1] * 3, [1.0], [0.0] * 8, [1 / 3] * 7])
def test_equal_returns_teach_nothing_at_all(estimator: str, returns: list[float]) -> None:
    assert advantages(returns, estimator) == [0.0] * len(returns)


def test_reinforce_needs_no_group() -> None:
    assert advantages([0.7], "reinforce") == [0.7]


@settings(max_examples=60, deadline=None)
@given(RETURNS)
def test_advantages_of_a_group_sum_to_zero(returns: list[float]) -> None:
    for estimator in ("grpo", "dr_grpo", "rloo"):
        assert math.fsum(advantages(returns, estimator)) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(RETURNS)
def test_rloo_is_dr_grpo_times_a_constant(returns: list[float]) -> None:
    size = len(returns)
    scaled = [value * size / (size - 1) for value in advantages(returns, "dr_grpo")]
    assert advantages(returns, "rloo") == pytest.approx(scaled, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(RETURNS.filter(lambda returns: len(set(returns)) > 1))
def test_grpo_advantages_have_unit_spread(returns: list[float]) -> None:
    assert statistics.stdev(advantages(returns, "grpo", 0.0)) == pytest.approx(1.0)


def test_maxrl_learns_nothing_from_a_group_that_never_succeeds_on_average() -> None:
    assert advantages([1.0, -1.0], "maxrl") == [0.0, 0.0]


def test_maxrl_refuses_returns_below_zero_on_average_since_their_signs_would_turn_round() -> None:
    with pytest.raises(ConfigError, match=r"mean return of a group, which is -0\.5: .* or take 'grpo'"):
        advantages([0.0, -1.0], "maxrl")


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "maxrl", "opo", "reinforce_pp_baseline"])
def test_an_only_rollout_has_nothing_to_be_compared_with_whatever_credits_its_decisions_have(
    estimator: str,
) -> None:
    found = group_advantages([[0.25, 0.5, 1.0], []], estimator=Estimator(estimator), tokens=[3, 0])
    assert found == [[0.0, 0.0, 0.0], []]


def test_opo_of_rollouts_that_sampled_nothing_takes_each_as_much_into_account() -> None:
    assert group_advantages([[1.0], [0.0]], estimator=Estimator.OPO, tokens=[0, 0]) == [[0.5], [-0.5]]


def test_opo_takes_long_rollouts_more_into_account() -> None:
    found = group_advantages([[1.0], [0.0]], estimator=Estimator.OPO, tokens=[1, 3])
    assert found == [[0.75], [-0.25]]


CREDITS = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=4), min_size=2, max_size=6
)
RELATIVE = ("grpo", "dr_grpo", "rloo", "maxrl")


@settings(max_examples=60, deadline=None)
@given(CREDITS, st.data())
def test_a_rollout_counts_once_however_many_decisions_repeat_its_credits(
    credits_: list[list[float]], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(credits_) - 1))
    doubled = [own * 2 if index == place else own for index, own in enumerate(credits_)]
    for name in RELATIVE:
        plain = group_advantages(credits_, estimator=Estimator(name))
        again = group_advantages(doubled, estimator=Estimator(name))
        expected = [own * 2 if index == place else own for index, own in enumerate(plain)]
        assert [value for own in again for value in own] == pytest.approx(
            [value for own in expected for value in own], abs=1e-9
        )


@settings(max_examples=60, deadline=None)
@given(RETURNS, st.integers(1, 4))
def test_credits_of_the_outcome_give_what_outcomes_give(returns: list[float], decisions: int) -> None:
    for name in RELATIVE:
        found = group_advantages([[value] * decisions for value in returns], estimator=Estimator(name))
        assert [own[0] for own in found] == pytest.approx(advantages(returns, name), abs=1e-9)


def test_step_credits_are_compared_with_the_mean_step() -> None:
    # returns to go of two rollouts with rewards 1, 1 and 0, 0
    found = group_advantages([[2.0, 1.0], [0.0, 0.0]], estimator=Estimator.DR_GRPO)
    assert found == [[1.25, 0.25], [-0.75, -0.75]]


def test_a_rollout_without_decisions_is_no_zero() -> None:
    assert group_advantages([[1.0], [0.0], []], estimator=Estimator.DR_GRPO) == [[0.5], [-0.5], []]


def test_each_dimension_of_gdpo_counts_as_much_as_its_weight_whatever_its_range() -> None:
    small = [[{"right": 1.0, "brief": 0.0}, {"right": 0.0, "brief": 1.0}]]
    large = [[{"right": 1000.0, "brief": 0.0}, {"right": 0.0, "brief": 1.0}]]
    assert gdpo_advantages(small, weights={}) == [[0.0, 0.0]]
    assert gdpo_advantages(large, weights={})[0] == pytest.approx([0.0, 0.0], abs=1e-2)
    heavier = gdpo_advantages(small, weights={"right": 2.0})
    assert heavier[0] == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-5)


def test_the_baseline_of_a_role_moves_after_it_was_used() -> None:
    found, left = rae_advantages([("a", 1.0), ("b", 1.0), ("a", 1.0)], baselines={"b": 0.5}, decay=0.75)
    assert found == [1.0, 0.5, 0.75]
    assert left == {"a": 0.4375, "b": 0.625}
