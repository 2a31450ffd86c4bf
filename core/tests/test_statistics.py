"""Intervals agree with published values and with what they promise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.statistics import bootstrap_interval, mean_interval, wilson_interval


def test_wilson_interval_agrees_with_newcombe_1998_table_1() -> None:
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson_interval(0, 20)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_proportion(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson_interval(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0


def test_bootstrap_interval_is_about_as_wide_as_the_normal_one() -> None:
    values = [0.1 * (index % 11) for index in range(440)]
    low, high = bootstrap_interval(values)
    mean = sum(values) / len(values)
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * 0.3166 / 440**0.5, rel=0.15)


def test_mean_interval_of_nothing_says_nothing() -> None:
    assert mean_interval([]) == (0.0, 0.0, 1.0)


def test_mean_interval_of_fractions_is_a_bootstrap() -> None:
    mean, low, high = mean_interval([0.25, 0.75, 0.5])
    assert low <= mean <= high
    assert mean == 0.5
