"""Settings of the algorithm `decisions`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from agentlightning.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Above = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Baseline(StrEnum):
    """What a decision's credit is compared with.

    - `leave_one_out`: the same decision in the other rollouts of its group; where there is none, the learned one.
    - `learned`: what a linear model of the context, fitted to the updates before, expects.
    - `none`: nothing.
    """

    LEAVE_ONE_OUT = "leave_one_out"
    LEARNED = "learned"
    NONE = "none"


class Promotion(StrEnum):
    """When a policy goes live: with a gain that is beyond its interval, or `always`."""

    GAIN = "gain"
    ALWAYS = "always"


class DecisionsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `decisions`.

    Attributes:
        updates: Updates of the policy.
        tasks_per_update: Tasks (groups) sampled for one update; in `together`, the part that leads says.
        group_size: Rollouts per task; likewise.
        passes: Steps over the rollouts of one update; from the second on, importance weights correct for the change.
        learning_rate: Step size of Adam, in units of scores (logits).
        baseline: What credit is compared with.
        weight_cap: Importance weights beyond this are cut to it, with the bias that brings.
        entropy: Coefficient of the entropy bonus.
        epsilon: Share of training decisions spread evenly over the options, at the first update.
        epsilon_end: The same from update `anneal` on; the floor of exploration.
        temperature: Of the softmax at the first update.
        temperature_end: The same from update `anneal` on.
        anneal: Updates over which both move, linearly; 0 keeps the first values.
        bits: The policy has `2**bits` weights.
        points: Names of the decisions to learn; empty is all.
        resource: Name of the policy among the resources.
        promote: When a policy goes live.
        promote_every: Updates between comparisons with what is live; the last update is always followed by one.
        holdout: Share of the groups that no update learns from: what policies are judged on.
        window: Newest held-out rollouts that are kept for it.
        min_effective: Effective sample size below which no gain is believed.
        checkpoint_every: Updates between checkpoints.
        evaluate_every: Updates between evaluations; 0 for none but the first and last.
    """

    updates: Count = 50
    tasks_per_update: Positive = 16
    group_size: Positive = 4
    passes: Positive = 1
    learning_rate: NonNegative = 0.2
    baseline: Baseline = Baseline.LEAVE_ONE_OUT
    weight_cap: Above = 5.0
    entropy: NonNegative = 0.0
    epsilon: Share = 0.2
    epsilon_end: Share = 0.05
    temperature: Above = 1.0
    temperature_end: Above = 1.0
    anneal: Count = 25
    bits: Annotated[int, msgspec.Meta(ge=4, le=20)] = 12
    points: tuple[str, ...] = ()
    resource: str = "decisions"
    promote: Promotion = Promotion.GAIN
    promote_every: Positive = 10
    holdout: Share = 0.25
    window: Positive = 256
    min_effective: NonNegative = 30.0
    checkpoint_every: Positive = 10
    evaluate_every: Count = 0

    def __post_init__(self) -> None:
        if self.promote is Promotion.GAIN and self.holdout == 0:
            raise ConfigError(
                "promote 'gain' judges policies on rollouts that they were not trained on, and holdout is 0; "
                "take a share such as 0.25, or promote 'always'"
            )
        if self.holdout == 1:
            raise ConfigError("holdout is 1, which leaves nothing to learn from; take a share such as 0.25")

    def exploration(self, update: int) -> tuple[float, float]:
        """Epsilon and temperature at an update, from 0."""
        done = min(1.0, update / self.anneal) if self.anneal else 0.0
        return (
            self.epsilon + done * (self.epsilon_end - self.epsilon),
            self.temperature + done * (self.temperature_end - self.temperature),
        )
