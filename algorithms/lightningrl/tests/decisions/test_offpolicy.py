"""Off-policy estimates against bandits and short programs whose true values are computed."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.types import DecisionPolicy, pack_weights
from lightning_algorithm_lightningrl.decisions import (
    Estimates,
    LoggedDecision,
    LoggedRollout,
    compare,
    default_target,
    effective_sample_size,
    evaluate,
    offpolicy,
    target_of,
)

ARMS = ("a", "b", "c")
WORTH = {("x", "a"): 0.2, ("x", "b"): 0.7, ("x", "c"): 0.4, ("y", "a"): 0.9, ("y", "b"): 0.1, ("y", "c"): 0.5}
BEHAVIOUR = {"x": (0.5, 0.3, 0.2), "y": (0.2, 0.2, 0.6)}
TARGET = {"x": (0.1, 0.8, 0.1), "y": (0.7, 0.1, 0.2)}
VALUE = statistics.fmean(
    sum(share * WORTH[kind, arm] for share, arm in zip(TARGET[kind], ARMS, strict=True)) for kind in "xy"
)


def target(decision: LoggedDecision) -> Sequence[float]:
    return TARGET[str(decision.context)]


def pulled(count: int, *, seed: int) -> list[LoggedRollout]:
    """A contextual bandit with rewards of 0 and 1."""
    generator = random.Random(seed)
    rollouts = []
    for number in range(count):
        kind = "xy"[number % 2]
        index = generator.choices(range(3), BEHAVIOUR[kind])[0]
        value = float(generator.random() < WORTH[kind, ARMS[index]])
        decision = LoggedDecision(
            name="arm",
            options=ARMS,
            context=kind,
            index=index,
            propensity=BEHAVIOUR[kind][index],
            credit=value,
        )
        rollouts.append(LoggedRollout(group=str(number), value=value, decisions=(decision,)))
    return rollouts


@pytest.fixture(scope="module")
def estimates() -> list[Estimates]:
    """Of the same bandit, from logs of many seeds."""
    return [evaluate(pulled(100, seed=seed), target=target, seed=seed, resamples=200) for seed in range(60)]


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_estimates_of_a_bandit_are_centred_on_the_true_value(name: str, estimates: list[Estimates]) -> None:
    values = [getattr(one, name).value for one in estimates]
    error = statistics.stdev(values) / len(values) ** 0.5
    assert statistics.fmean(values) == pytest.approx(VALUE, abs=3 * error)
    logged = statistics.fmean(one.logged for one in estimates)
    assert abs(logged - VALUE) > 6 * error  # what the logs earned is another number


def test_doubly_robust_estimates_vary_less(estimates: list[Estimates]) -> None:
    ips, snips, dr = (
        statistics.variance(getattr(one, name).value for one in estimates) for name in ("ips", "snips", "dr")
    )
    assert dr < 0.5 * ips
    assert snips < ips


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_intervals_hold_the_true_value_about_as_often_as_they_say(
    name: str, estimates: list[Estimates]
) -> None:
    inside = sum(getattr(one, name).low <= VALUE <= getattr(one, name).high for one in estimates)
    assert inside >= 0.85 * len(estimates)


def test_estimates_of_several_decisions_are_centred_on_the_true_value() -> None:
    shares, wanted = (0.6, 0.4), (0.2, 0.8)

    def worth(first: int, second: int) -> float:
        return 1.0 if first == second == 1 else 0.25 * first

    true = sum(wanted[a] * wanted[b] * worth(a, b) for a, b in itertools.product((0, 1), repeat=2))
    found = []
    for seed in range(60):
        generator = random.Random(seed)
        rollouts = []
        for number in range(80):
            taken = [generator.choices((0, 1), shares)[0] for _ in range(2)]
            value = worth(*taken)
            decisions = tuple(
                LoggedDecision(
                    name=f"step {place}",
                    options=("no", "yes"),
                    context={"before": taken[:place]},
                    index=index,
                    propensity=shares[index],
                    credit=value,
                )
                for place, index in enumerate(taken)
            )
            rollouts.append(LoggedRollout(group=str(number), value=value, decisions=decisions))
        found.append(evaluate(rollouts, target=lambda _: wanted, seed=seed, resamples=40))
    for name in ("ips", "snips", "dr"):
        values = [getattr(one, name).value for one in found]
        assert statistics.fmean(values) == pytest.approx(true, abs=3.2 * statistics.stdev(values) / 60**0.5)
    assert statistics.variance(one.dr.value for one in found) < statistics.variance(
        one.ips.value for one in found
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), count=st.integers(1, 40))
def test_a_policy_like_the_logged_one_is_worth_what_was_logged(seed: int, count: int) -> None:
    rollouts = pulled(count, seed=seed)
    found = evaluate(rollouts, target=lambda one: BEHAVIOUR[str(one.context)])
    mean = statistics.fmean(rollout.value for rollout in rollouts)
    assert found.ips.value == pytest.approx(mean)
    assert found.snips.value == pytest.approx(mean)
    assert found.effective == pytest.approx(count)
    assert found.largest == pytest.approx(1.0)
    for one in (found.ips, found.snips, found.dr):
        assert one.low <= one.high


def test_a_better_policy_gains_beyond_the_interval_and_an_equal_one_nothing() -> None:
    rollouts = pulled(300, seed=1)
    better = compare(rollouts, candidate=target, incumbent=lambda one: BEHAVIOUR[str(one.context)])
    assert better.gain.low > 0
    assert better.gain.value == pytest.approx(better.candidate.dr.value - better.incumbent.dr.value)
    same = compare(rollouts, candidate=target, incumbent=target)
    assert (same.gain.low, same.gain.value, same.gain.high) == (0.0, 0.0, 0.0)


def test_rollouts_of_a_group_are_resampled_together() -> None:
    apart = pulled(60, seed=3)
    copies = [
        LoggedRollout(group=one.group, value=one.value, decisions=one.decisions)
        for one in apart
        for _ in range(8)
    ]
    few, many = evaluate(apart, target=target).ips, evaluate(copies, target=target).ips
    assert many.high - many.low == pytest.approx(few.high - few.low)


def test_rollouts_without_decisions_count_as_they_are() -> None:
    rollouts = [LoggedRollout(group=str(n), value=float(n), decisions=()) for n in range(4)]
    found = evaluate(rollouts, target=default_target)
    assert (found.ips.value, found.snips.value, found.dr.value) == (1.5, 1.5, 1.5)


def test_there_must_be_something_to_judge_on() -> None:
    with pytest.raises(ValueError, match="no logged rollouts"):
        evaluate([], target=target)


def test_effective_sample_size_counts_what_carries_weight() -> None:
    assert effective_sample_size([2.0, 2.0, 2.0]) == pytest.approx(3.0)
    assert effective_sample_size([5.0, 0.0, 0.0]) == pytest.approx(1.0)
    assert effective_sample_size([0.0, 0.0]) == 0.0


def test_a_policy_is_judged_as_it_decides_in_use() -> None:
    decision = pulled(1, seed=0)[0].decisions[0]
    policy = DecisionPolicy(version=1, weights=pack_weights({}), epsilon=0.3)
    assert target_of(policy)(decision) == [1.0, 0.0, 0.0]
    assert target_of(policy, greedy=False)(decision) == pytest.approx([1 / 3] * 3)
    assert target_of(DecisionPolicy(version=1, points=("else",)), greedy=False)(decision) == [1.0, 0.0, 0.0]


def test_the_doubly_robust_return_starts_from_the_last_decision() -> None:
    first, second = (
        LoggedDecision(name=name, options=(0, 1), context=None, index=1, propensity=share, credit=2.0)
        for name, share in (("first", 0.5), ("second", 0.25))
    )
    rollout = LoggedRollout(group="g", value=2.0, decisions=(first, second))
    worth = {"first": [0.0, 1.0], "second": [3.0, 4.0]}
    (found,) = offpolicy._judged(
        [rollout],
        lambda one: [0.25, 0.75] if one.name == "first" else [0.5, 0.5],
        {"g": lambda one: worth[one.name]},  # type: ignore[dict-item]
    )
    last = 3.5 + 2.0 * (2.0 - 4.0)
    assert found.robust == pytest.approx(0.75 + 1.5 * (last - 1.0))
    assert found.weight == pytest.approx(3.0)


def test_a_rollout_is_not_predicted_by_a_model_that_has_seen_it() -> None:
    rollouts = [
        LoggedRollout(group=one.group, value=float(number), decisions=one.decisions)
        for number, one in enumerate(pulled(2, seed=0))
    ]
    judged = offpolicy._judged(
        rollouts, lambda one: [float(n == (one.index + 1) % 3) for n in range(3)], offpolicy._models(rollouts)
    )
    assert [one.robust for one in judged] == [1.0, 0.0]
