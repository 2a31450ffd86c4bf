"""What a set must show: comparisons of outcomes, and the rules that name them."""

from __future__ import annotations

import pytest

from agentlightning.continuous import Accept, Continuous, Traffic
from agentlightning.errors import ConfigError
from agentlightning.promotion import Verdict, by_tasks, by_traffic
from agentlightning.types import ResourceState


def test_an_interval_decides_and_too_few_outcomes_do_not() -> None:
    assert by_tasks([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]).verdict is Verdict.BETTER
    assert by_tasks([1.0, 0.0, None], [0.0, 1.0, 1.0]).verdict is Verdict.UNDECIDED
    assert by_tasks([None], [1.0]).verdict is Verdict.UNDECIDED
    assert by_traffic([1.0, 2.0, 1.0], [5.0, 6.0, 5.0]).verdict is Verdict.WORSE
    assert by_traffic([1.0], [5.0, 6.0]).verdict is Verdict.UNDECIDED
    assert by_tasks([None, None], [None, None]).verdict is Verdict.UNDECIDED


def test_what_fails_more_often_is_worse_whatever_the_rest_earns() -> None:
    half, all_ = [9.0, None] * 8, [1.0] * 16
    for compare in (by_tasks, by_traffic):
        assert compare(half, all_).verdict is Verdict.WORSE
        assert compare(all_, half).verdict is Verdict.WORSE  # it earns less, and never fails
        assert compare(half, half).verdict is Verdict.UNDECIDED
        assert compare([9.0] * 15 + [None], all_).verdict is Verdict.BETTER
        assert "fails more often" in str(compare(half, all_))
    assert ResourceState.CANARY.value == "canary"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"traffic": "lvie"}, r"traffic='lvie' .* Invalid enum value 'lvie'"),
        ({"accept": 1}, "accept=1 of continuous learning cannot be used"),
        ({"canary": 1.5}, "canary=1.5 .* <= 1"),
        ({"canary": float("nan")}, "canary=nan"),
        ({"canary_rollouts": 1}, "canary_rollouts=1 .* >= 2"),
        ({"every_rollouts": -1}, "every_rollouts=-1"),
        ({"rounds": 1.5}, "rounds=1.5"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_when_it_is_made(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Continuous(**wrong)  # type: ignore[arg-type]


def test_a_rule_may_be_given_in_plain_words() -> None:
    rule = Continuous(traffic="live", accept="no_loss")  # type: ignore[arg-type]
    assert (rule.traffic, rule.accept) == (Traffic.LIVE, Accept.NO_LOSS)
    assert rule.traffic is Traffic.LIVE
