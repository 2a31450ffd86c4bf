"""Budgets refuse what they do not allow, and count what they do."""

import msgspec
import pytest

from agentlightning import semconv
from agentlightning.budget import Budget, BudgetMeter, prices_of
from agentlightning.errors import BudgetExhausted, ConfigError
from agentlightning.gateway import HttpUpstream, Price
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Episode, SpanSource, TokenRecord


def test_rollouts_are_counted_up_to_the_limit_and_not_past_it() -> None:
    meter = BudgetMeter(Budget(rollouts=5))
    meter.reserve(3)
    with pytest.raises(BudgetExhausted, match="allows 5"):
        meter.reserve(3)
    assert meter.rollouts == 3
    meter.reserve(2)
    assert meter.rollouts == 5


@pytest.mark.parametrize("name", ["rollouts", "tokens", "seconds", "money"])
@pytest.mark.parametrize("limit", [-3, float("nan")])
def test_a_limit_that_is_none_is_refused(name: str, limit: float) -> None:
    with pytest.raises(ConfigError, match=f"limit of {name} is {limit!r}"):
        Budget(**{name: limit})
    with pytest.raises((ConfigError, msgspec.ValidationError)):
        msgspec.convert({name: limit}, Budget)


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


def call(number: int, *, source: SpanSource = SpanSource.GATEWAY, model: str = "small") -> Episode:
    """A rollout with one call of three tokens, for which its upstream charges a thousand and two thousand."""
    builder = EpisodeBuilder(rollout_id=f"r{number}")
    record = TokenRecord.pack([1, 2], [3], [-0.5], version=0)
    charged = {semconv.REQUEST_MODEL: model, semconv.INPUT_TOKENS: 1_000, semconv.OUTPUT_TOKENS: 2_000}
    builder.span("chat", source=source, attributes=charged, tokens=(record,))
    return builder.build()


def test_calls_cost_what_their_upstream_charges_and_each_rollout_counts_once() -> None:
    meter = BudgetMeter(Budget(money=0.01), prices={"small": Price(prompt=1.0, response=2.0)})
    meter.count([call(1), call(1), call(2, source=SpanSource.ADAPTER)])
    meter.count([call(1)])
    assert meter.tokens == 6
    assert meter.money == pytest.approx(0.005)
    meter.reserve(1)
    meter.count([call(3)])
    with pytest.raises(BudgetExhausted, match=r"0\.01 is spent, the budget allows 0\.01"):
        meter.reserve(1)


def test_what_a_killed_process_had_spent_counts() -> None:
    now = [0.0]
    before = BudgetMeter(Budget(), prices={"*": Price(prompt=1.0, response=1.0)}, clock=lambda: now[0])
    before.reserve(4)
    before.count([call(1)])
    now[0] = 7.0
    after = BudgetMeter(Budget(seconds=10), clock=lambda: now[0])
    after.restore(before.manifest())
    assert (after.rollouts, after.tokens, after.money, after.seconds) == (4, 3, pytest.approx(0.003), 7.0)
    now[0] = 10.0
    with pytest.raises(BudgetExhausted, match="10 s have passed"):
        after.check_time()


def test_money_needs_the_price_of_every_upstream() -> None:
    priced = HttpUpstream(
        base_url="http://127.0.0.1:1/v1", model="big", price=Price(prompt=1.0, response=2.0)
    )
    free = HttpUpstream(base_url="http://127.0.0.1:2/v1")
    budget = Budget(money=1.0)
    assert set(prices_of(budget, engine=None, upstreams={"small": priced})) == {"small", "big"}
    with pytest.raises(ConfigError, match=r"\['other'\] cost is not known"):
        prices_of(budget, engine=None, upstreams={"small": priced, "other": free})
    with pytest.raises(ConfigError, match="do not go through the gateway"):
        prices_of(budget, engine=None, upstreams={})
    assert prices_of(Budget(), engine="torch", upstreams={}) == {}
