"""Budgets refuse what they do not allow, and count what they do."""

import pytest

from agentlightning.budget import Budget, BudgetMeter
from agentlightning.errors import BudgetExhausted


def test_rollouts_are_counted_up_to_the_limit_and_not_past_it() -> None:
    meter = BudgetMeter(Budget(rollouts=5))
    meter.reserve(3)
    with pytest.raises(BudgetExhausted, match="allows 5"):
        meter.reserve(3)
    assert meter.rollouts == 3
    meter.reserve(2)
    assert meter.rollouts == 5


def test_nothing_starts_once_the_tokens_are_spent() -> None:
    meter = BudgetMeter(Budget(tokens=100), tokens=100)
    with pytest.raises(BudgetExhausted, match="100 tokens"):
        meter.reserve(1)


def test_nothing_starts_once_the_time_has_passed() -> None:
    now = [0.0]
    meter = BudgetMeter(Budget(seconds=10), clock=lambda: now[0])
    meter.reserve(1)
    now[0] = 10.0
    with pytest.raises(BudgetExhausted, match="allows 10 s"):
        meter.reserve(1)


def test_a_budget_without_limits_allows_everything() -> None:
    meter = BudgetMeter(Budget())
    meter.reserve(1_000_000)
    assert meter.rollouts == 1_000_000
