"""Decisions as they were logged: read from experience, with all that learning and off-policy evaluation need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agentlightning import semconv
from agentlightning.errors import ConfigError
from agentlightning.types import Experience, Json, Span, Trajectory, Transition


class LoggedDecision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision.

    Attributes:
        name: What was decided.
        options: What there was to choose from.
        context: What it depended on.
        index: Place of the chosen option.
        propensity: Probability that the option had, above 0.
        credit: Share of the return that it is given.
    """

    name: str
    options: tuple[Json, ...]
    context: Json
    index: int
    propensity: float
    credit: float


class LoggedRollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout.

    Attributes:
        group: What its task has in common with others; rollouts of a group are not independent.
        value: Its return.
        decisions: In order.
    """

    group: str
    value: float
    decisions: tuple[LoggedDecision, ...]


def logged(
    experience: Experience, *, points: Sequence[str] = ()
) -> tuple[list[LoggedRollout], dict[str, int]]:
    """The rollouts of an experience that have a return, with their decisions.

    Args:
        experience: As the pipeline made it, through the stage `credit`.
        points: Names of the decisions to read; empty is all.

    Returns:
        Rollouts, and how many decisions were left out, by reason.

    Raises:
        ConfigError: The pipeline has left out a stage that this needs.
    """
    spans = {
        f"{span.attempt_id}/{span.span_id}": span
        for episode in experience.episodes
        for span in episode.spans
        if span.operation == semconv.OPERATION_DECISION
    }
    left: dict[str, int] = {}
    found: list[LoggedRollout] = []
    for trajectory in experience.trajectories:
        value = trajectory.outcome if trajectory.episode_return is None else trajectory.episode_return
        if value is None:
            continue
        decisions = []
        for transition in trajectory.transitions:
            span = spans.get(transition.id)
            if span is None or (points and span.attributes.get(semconv.DECISION_NAME) not in points):
                continue
            decision = _decision(span, transition)
            if isinstance(decision, str):
                left[decision] = left.get(decision, 0) + 1
            else:
                decisions.append(decision)
        found.append(LoggedRollout(group=_group(trajectory), value=float(value), decisions=tuple(decisions)))
    return found, left


def _group(trajectory: Trajectory) -> str:
    return trajectory.rollout.group or trajectory.rollout.id


def _decision(span: Span, transition: Transition) -> LoggedDecision | str:
    """The decision, or why it cannot be learned from."""
    if transition.credit is None:
        raise ConfigError(
            f"decision {transition.id} has no credit; the pipeline of decisions needs the stage credit"
        )
    known: Mapping[str, Json] = span.attributes
    options, choice = known.get(semconv.DECISION_OPTIONS), known.get(semconv.DECISION_CHOICE)
    if not isinstance(options, list) or choice not in options:
        return "its choice is not among its options"
    index = known.get(semconv.DECISION_INDEX, options.index(choice))
    if not isinstance(index, int) or not 0 <= index < len(options):
        return "its choice is not among its options"
    propensity = known.get(semconv.DECISION_PROPENSITY)
    if not isinstance(propensity, int | float) or not 0 < propensity <= 1:
        return "it has no propensity"
    return LoggedDecision(
        name=str(known.get(semconv.DECISION_NAME, "")),
        options=tuple(options),
        context=known.get(semconv.STATE),
        index=index,
        propensity=float(propensity),
        credit=transition.credit,
    )
