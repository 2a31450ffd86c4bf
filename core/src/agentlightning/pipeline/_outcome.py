"""From many reward values to one number: whose word counts, and how dimensions add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentlightning.types import Reward, RewardSource

AUTHORITY: Final = (
    RewardSource.GRADER,
    RewardSource.ENVIRONMENT,
    RewardSource.AGENT,
    RewardSource.SIGNAL,
)
"""Sources, the one that is believed first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRule:
    """How rewards become one number.

    The last value of a dimension and source counts. Where several sources judge, the first of `AUTHORITY` wins: per
    dimension if there are weights, else as a whole (a grader's `correct` is not mixed with the agent's own opinion).

    Attributes:
        trusted: Sources whose rewards count.
        weights: By dimension: the number is the sum of weight times value. Empty is the plain mean.
    """

    trusted: tuple[RewardSource, ...] = AUTHORITY
    weights: Mapping[str, float] = field(default_factory=dict)

    def by_dimension(self, rewards: Iterable[Reward]) -> dict[str, float]:
        """The value of each dimension that counts; empty if there is none."""
        given: dict[RewardSource, dict[str, float]] = {source: {} for source in AUTHORITY}
        for reward in rewards:
            if reward.source in self.trusted and (not self.weights or reward.dimension in self.weights):
                given[reward.source][reward.dimension] = reward.value
        if not self.weights:
            return next((dict(sorted(values.items())) for values in given.values() if values), {})
        best: dict[str, float] = {}
        for source in reversed(AUTHORITY):
            best |= given[source]
        return dict(sorted(best.items()))

    def scalar(self, values: Mapping[str, float]) -> float:
        """One number from the values of at least one dimension."""
        if not self.weights:
            return sum(values.values()) / len(values)
        return sum(self.weights[name] * value for name, value in values.items())
