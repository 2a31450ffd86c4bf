from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_algorithm_lightningrl.advantages import Estimator, baselines

RETURNS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=8)


def advantages(returns: list[float], estimator: str, std_eps: float = 1e-6) -> list[float]:
    found = baselines(returns, estimator=Estimator(estimator), std_eps=std_eps)
    return [baseline.advantage(value) for baseline, value in zip(found, returns, strict=True)]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("grpo", [0.866024, -0.866024, -0.866024, 0.866024]),
        ("dr_grpo", [0.5, -0.5, -0.5, 0.5]),
        ("rloo", [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
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
