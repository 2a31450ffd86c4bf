"""Rewards: values per dimension, aimed at a span or at the whole attempt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from agentlightning import semconv
from agentlightning.errors import InvalidReward
from agentlightning.types._span import Span, SpanSource, SpanStatus


class RewardSource(StrEnum):
    """Who gave the reward. A run may trust some sources only."""

    AGENT = "agent"
    GRADER = "grader"
    ENVIRONMENT = "environment"
    SIGNAL = "signal"


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """One reward value.

    Attributes:
        span_id: Id of the span that carries the reward.
        value: A finite float.
        dimension: What is judged; `reward` if only one thing is.
        target: Id of the rewarded span; None aims at the whole attempt (the outcome).
        source: Who gave it.
        reason: Why, for people.
    """

    rollout_id: str
    attempt_id: str
    span_id: str
    value: float
    dimension: str = "reward"
    target: str | None = None
    source: RewardSource = RewardSource.AGENT
    reason: str | None = None


def check_reward(value: object) -> float:
    """Returns `value` as a finite float.

    Raises:
        InvalidReward: It is a boolean, not a number, NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidReward(
            f"a reward must be a number, got {value!r} ({type(value).__name__}); use 1.0 / 0.0"
        )
    number = float(value)
    if not math.isfinite(number):
        raise InvalidReward(f"a reward must be finite, got {value!r}; leave it out if it is unknown")
    return number


def check_rewards(value: object) -> dict[str, float]:
    """Returns rewards by dimension: a bare number becomes `{"reward": number}`.

    Raises:
        InvalidReward: A value is not a finite number, a name is not a string, or there is none.
    """
    if not isinstance(value, Mapping):
        return {"reward": check_reward(value)}
    if not value:
        raise InvalidReward("a reward needs at least one dimension, got {}")
    for name in value:
        if not isinstance(name, str):
            raise InvalidReward(f"a reward dimension must be a string, got {name!r}")
    return {str(name): check_reward(number) for name, number in value.items()}


def reward_attributes(
    *, value: float, dimension: str, target: str | None, source: RewardSource, reason: str | None
) -> dict[str, object]:
    """The span attributes that express one reward; `reward_of` reads them back."""
    attributes: dict[str, object] = {
        semconv.EVALUATION_NAME: dimension,
        semconv.EVALUATION_SCORE: check_reward(value),
        semconv.REWARD_SOURCE: source.value,
    }
    if target is not None:
        attributes[semconv.REWARD_TARGET] = target
    if reason is not None:
        attributes[semconv.EVALUATION_EXPLANATION] = reason
    return attributes


def reward_of(span: Span) -> Reward | None:
    """The reward a span expresses, or None if it is not a reward span.

    Raises:
        InvalidReward: The span claims to be a reward, but its value is not a finite number.
    """
    if span.operation != semconv.OPERATION_REWARD:
        return None
    attributes = span.attributes
    target = attributes.get(semconv.REWARD_TARGET)
    reason = attributes.get(semconv.EVALUATION_EXPLANATION)
    return Reward(
        rollout_id=span.rollout_id,
        attempt_id=span.attempt_id,
        span_id=span.span_id,
        value=check_reward(attributes.get(semconv.EVALUATION_SCORE)),
        dimension=str(attributes.get(semconv.EVALUATION_NAME, "reward")),
        target=None if target is None else str(target),
        source=RewardSource(str(attributes.get(semconv.REWARD_SOURCE, RewardSource.AGENT.value))),
        reason=None if reason is None else str(reason),
    )


def reward_span(
    *,
    rollout_id: str,
    attempt_id: str,
    span_id: str,
    trace_id: str,
    time_ns: int,
    value: float,
    dimension: str = "reward",
    target: str | None = None,
    source: RewardSource = RewardSource.AGENT,
    reason: str | None = None,
    parent_id: str | None = None,
) -> Span:
    """A span that expresses one reward."""
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        span_id=span_id,
        trace_id=trace_id,
        parent_id=parent_id,
        name=f"reward {dimension}",
        operation=semconv.OPERATION_REWARD,
        source=SpanSource.RUNNER if source is RewardSource.GRADER else SpanSource.EMIT,
        start_ns=time_ns,
        end_ns=time_ns,
        status=SpanStatus.OK,
        attributes=reward_attributes(
            value=value, dimension=dimension, target=target, source=source, reason=reason
        ),
    )
