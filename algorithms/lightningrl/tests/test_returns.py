from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_algorithm_lightningrl.returns import (
    anchored_advantages,
    discounted_returns,
    gae,
    step_rewards,
    whiten,
)

NUMBER = st.floats(-2, 2, allow_nan=False)
STEPS = st.lists(st.tuples(NUMBER, NUMBER, st.booleans()), min_size=1, max_size=12)


def test_a_reward_after_a_tool_reaches_what_was_said_before_it() -> None:
    found = discounted_returns([0.0, 0.0, 9.0, 1.0], gamma=0.5, mask=[True, True, False, True])
    assert found == [0.25, 0.5, 0.0, 1.0]


def test_values_at_a_tool_do_not_leak_into_estimates() -> None:
    quiet = gae([0.0, 0.0, 1.0], values=[0.5, 0.0, 0.5], gamma=1.0, lam=0.5, mask=[True, False, True])
    loud = gae([0.0, 7.0, 1.0], values=[0.5, 99.0, 0.5], gamma=1.0, lam=0.5, mask=[True, False, True])
    assert quiet == loud == [0.25, 0.0, 0.5]


@settings(max_examples=60, deadline=None)
@given(STEPS, st.floats(0, 1), st.floats(0, 1))
def test_positions_that_were_not_chosen_might_as_well_not_be_there(
    steps: list[tuple[float, float, bool]], gamma: float, lam: float
) -> None:
    rewards, values, mask = (list(column) for column in zip(*steps, strict=True))
    kept = [(reward, value) for reward, value, chosen in steps if chosen]
    whole = gae(rewards, values=values, gamma=gamma, lam=lam, mask=mask)
    short = gae([r for r, _ in kept], values=[v for _, v in kept], gamma=gamma, lam=lam)
    assert [value for value, chosen in zip(whole, mask, strict=True) if chosen] == short
    returns = discounted_returns(rewards, gamma=gamma, mask=mask)
    expected = discounted_returns([r for r, _ in kept], gamma=gamma)
    assert [value for value, chosen in zip(returns, mask, strict=True) if chosen] == expected


@settings(max_examples=60, deadline=None)
@given(STEPS, st.floats(0, 1))
def test_without_lambda_gae_is_the_return_less_the_value(
    steps: list[tuple[float, float, bool]], gamma: float
) -> None:
    rewards, values, _ = (list(column) for column in zip(*steps, strict=True))
    returns = discounted_returns(rewards, gamma=gamma)
    expected = [own - value for own, value in zip(returns, values, strict=True)]
    assert gae(rewards, values=values, gamma=gamma, lam=1.0) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBER, min_size=1, max_size=8), st.floats(0, 1))
def test_step_rewards_are_what_credits_are_the_returns_of(credits_: list[float], gamma: float) -> None:
    rewards = step_rewards(credits_, gamma=gamma)
    assert discounted_returns(rewards, gamma=gamma) == pytest.approx(credits_, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBER, st.integers(1, 5)), min_size=2, max_size=8))
def test_counts_stand_for_repetitions(pairs: list[tuple[float, int]]) -> None:
    repeated = [value for value, count in pairs for _ in range(count)]
    plain = iter(whiten(repeated, counts=[1.0] * len(repeated)))
    expected = [
        repeated_value[0] for repeated_value in ([next(plain) for _ in range(count)] for _, count in pairs)
    ]
    found = whiten([value for value, _ in pairs], counts=[float(count) for _, count in pairs])
    assert found == pytest.approx(expected, abs=1e-6)


def test_whitened_values_have_mean_zero_and_deviation_one() -> None:
    found = whiten([1.0, 2.0, 4.0], counts=[1.0, 1.0, 1.0])
    assert math.fsum(found) == pytest.approx(0.0)
    assert statistics.stdev(found) == pytest.approx(1.0)
    assert whiten([3.0], counts=[1.0]) == [0.0]


def test_steps_from_one_state_are_compared_with_each_other() -> None:
    # two rollouts pass through "door"; returns to go there are 0.5 and 0
    found = anchored_advantages(
        [[0.0, 1.0], [0.0, 0.0]], anchors=[["door", "left"], ["door", "right"]], gamma=0.5, weight=2.0
    )
    assert found == [[0.5 + 2 * 0.25, 0.5], [-0.5 - 2 * 0.25, -0.5]]


def test_a_state_met_once_has_no_say_and_an_only_rollout_keeps_its_return() -> None:
    assert anchored_advantages([[0.0, 1.0]], anchors=[["a", "b"]]) == [[1.0, 1.0]]


def test_both_parts_can_be_divided_by_their_deviation() -> None:
    found = anchored_advantages([[1.0], [0.0]], anchors=[["s"], ["s"]], by_deviation=True, std_eps=0.0)
    assert found[0] == pytest.approx([2 * 0.5**0.5])
