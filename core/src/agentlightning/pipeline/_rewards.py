"""Stage `rewards`: what graders, environments and agents said becomes rewards of decisions and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.config import decode_params
from agentlightning.pipeline._belonging import Belonging
from agentlightning.pipeline._lineage import DECISIVE, decision_key, span_key
from agentlightning.pipeline._outcome import AUTHORITY, OutcomeRule
from agentlightning.types import (
    AttemptStatus,
    Drop,
    Episode,
    Experience,
    FailureClass,
    Json,
    Reward,
    RewardSource,
    Trajectory,
    Transition,
    reward_of,
)

_INNER: Final = DECISIVE | {
    semconv.OPERATION_STATE,
    semconv.OPERATION_MESSAGE,
    semconv.OPERATION_OBJECT,
    semconv.OPERATION_REWARD,
    semconv.OPERATION_TRUNCATED,
}
"""Operations that are never the whole of a rollout, even where they say of no other what they happened in."""


class FailurePolicy(StrEnum):
    """What becomes of failures that are not worth a number."""

    EXCLUDED = "excluded"
    RETRIED = "retried"


class RewardsParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage.

    Attributes:
        trusted: Sources whose rewards count; the others are ignored.
        weights: By dimension: several dimensions become one number as the sum of weight times value, dimensions
            without a weight are ignored, and a trajectory without a value for one that has a weight is left out.
            Empty is the plain mean over the dimensions that occur; a trajectory that lacks one of them is left out.
        failures: What a failed attempt is worth, by class of failure: a number is its outcome; `excluded`, as any class
            that is not named, leaves it out whatever rewards it had: it is never worth 0 unless that is said here;
            `retried` leaves out what failed in the last attempt too, and says so where the rollout did not allow more.
    """

    trusted: tuple[RewardSource, ...] = AUTHORITY
    weights: dict[str, float] = {}
    failures: dict[FailureClass, float | FailurePolicy] = {}


class Rewards:
    """Attaches rewards: those aimed at a span to the decision it belongs to, the others to the trajectory's outcome.

    A reward that is aimed at the rollout's root span is one of the whole attempt. What another span belongs to, such as
    an operation or a tool, is said by `Belonging.decision`.
    """

    name = "rewards"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decoded = decode_params(params, RewardsParams, where=f"stage {self.name!r}")
        self._rule = OutcomeRule(trusted=decoded.trusted, weights=decoded.weights)
        self._failures = decoded.failures

    def __call__(self, experience: Experience) -> Experience:
        episodes = {episode.attempt.id: episode for episode in experience.episodes}
        drops: list[Drop] = []
        judged = [
            found
            for trajectory in experience.trajectories
            if (found := self._judged(trajectory, episodes.get(trajectory.attempt.id), drops))
        ]
        kept = tuple(self._complete(judged, drops))
        return replace(experience, trajectories=kept, drops=(*experience.drops, *drops))

    def _judged(
        self, trajectory: Trajectory, episode: Episode | None, drops: list[Drop]
    ) -> Trajectory | None:
        """The trajectory with its rewards, and outcomes by dimension; None if it was dropped."""
        attempt = trajectory.attempt
        if attempt.status is not AttemptStatus.SUCCEEDED:
            return self._failed(trajectory, drops)
        try:
            found = [reward for span in (episode.spans if episode else ()) if (reward := reward_of(span))]
        except ValueError as error:  # not a number, not finite, or from a source that does not exist
            drops.append(Drop(id=attempt.id, reason=f"invalid reward: {error}"))
            return None
        rewards = [reward for reward in found if reward.source in self._rule.trusted]
        if not rewards:
            reason = "no reward from a trusted source" if found else "no reward"
            drops.append(Drop(id=attempt.id, reason=reason))
            return None
        whole = _whole(episode)
        outcomes = self._rule.by_dimension(reward for reward in rewards if reward.target in whole)
        aimed = [reward for reward in rewards if reward.target not in whole]
        return msgspec.structs.replace(
            trajectory,
            transitions=self._aimed(trajectory, aimed, episode, drops),
            rewards=tuple(rewards),
            outcomes=outcomes,
        )

    def _failed(self, trajectory: Trajectory, drops: list[Drop]) -> Trajectory | None:
        attempt = trajectory.attempt
        kind = attempt.failure.kind if attempt.failure else None
        worth = self._failures.get(kind) if kind else None
        if isinstance(worth, float):
            return msgspec.structs.replace(trajectory, outcome=worth)
        reason = f"failed: {(kind or attempt.status).value}"
        if worth is FailurePolicy.RETRIED:
            config = trajectory.rollout.config
            tried = f"after {attempt.sequence} of {config.max_attempts} attempts"
            reason += (
                f", {tried if kind in config.retry_on else 'which retry_on of the rollout does not name'}"
            )
        drops.append(Drop(id=attempt.id, reason=reason))
        return None

    def _aimed(
        self, trajectory: Trajectory, rewards: list[Reward], episode: Episode | None, drops: list[Drop]
    ) -> tuple[Transition, ...]:
        """The transitions with the rewards that are aimed at their spans, or at spans that belong to them."""
        if not rewards:
            return trajectory.transitions
        spans = episode.spans if episode else ()
        targets = {span.span_id: span for span in spans}
        belonging = Belonging(spans)
        by_decision: dict[str, list[Reward]] = {decision_key(one): [] for one in trajectory.transitions}
        for reward in rewards:
            target = targets.get(reward.target or "")
            decision = belonging.decision(target) if target else None
            if decision is None or (key := span_key(decision)) not in by_decision:
                drops.append(Drop(id=reward.span_id, reason="the reward's target belongs to no transition"))
            else:
                by_decision[key].append(reward)
        return tuple(self._rewarded(one, by_decision[decision_key(one)]) for one in trajectory.transitions)

    def _rewarded(self, transition: Transition, rewards: list[Reward]) -> Transition:
        values = self._rule.by_dimension(rewards)
        return msgspec.structs.replace(transition, reward=self._rule.scalar(values)) if values else transition

    def _complete(self, judged: list[Trajectory], drops: list[Drop]) -> list[Trajectory]:
        """Those with a value for every dimension, with their outcome; nothing that is missing counts as 0."""
        expected = sorted(
            self._rule.weights or {name for trajectory in judged for name in trajectory.outcomes}
        )
        kept = []
        for trajectory in judged:
            missing = [name for name in expected if name not in trajectory.outcomes]
            if not trajectory.outcomes:  # a failure with a set outcome, or rewards for single decisions only
                kept.append(trajectory)
            elif missing:
                drops.append(Drop(id=trajectory.attempt.id, reason=f"no outcome in dimension {missing[0]!r}"))
            else:
                outcome = self._rule.scalar(trajectory.outcomes)
                kept.append(msgspec.structs.replace(trajectory, outcome=outcome))
        return kept


def _whole(episode: Episode | None) -> frozenset[str | None]:
    """What a reward of the whole attempt is aimed at: nothing, or the span that all others happened in."""
    spans = episode.spans if episode else ()
    made = {span.span_id for span in spans if span.operation == semconv.OPERATION_ROLLOUT}
    if made:
        return frozenset({None, *made})
    ids = {span.span_id for span in spans}
    roots = {span.span_id for span in spans if span.parent_id not in ids and span.operation not in _INNER}
    return frozenset({None, *roots} if len(roots) == 1 else {None})  # of several traces none is the whole
