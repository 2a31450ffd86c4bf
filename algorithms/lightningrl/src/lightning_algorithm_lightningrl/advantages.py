"""Advantages over the rollouts of a group, in plain Python."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Estimator(StrEnum):
    """How the return of a rollout becomes an advantage; `r` are the returns of its group, `G` their number.

    - `grpo`: (r_i - mean(r)) / (std(r) + eps), with the sample standard deviation (arXiv 2402.03300, section 4.1.2).
    - `dr_grpo`: r_i - mean(r) (arXiv 2503.20783, section 3.2).
    - `rloo`: r_i - mean of the others (arXiv 2402.14740, equation 6).
    - `reinforce`: r_i, without a baseline.
    """

    GRPO = "grpo"
    DR_GRPO = "dr_grpo"
    RLOO = "rloo"
    REINFORCE = "reinforce"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the credits of one rollout are compared with.

    Attributes:
        value: Expected return.
        scale: Factor on what exceeds it.
    """

    value: float
    scale: float

    def advantage(self, credit: float) -> float:
        """Advantage of a decision that is given this credit."""
        return (credit - self.value) * self.scale


def baselines(returns: Sequence[float], *, estimator: Estimator, std_eps: float = 1e-6) -> list[Baseline]:
    """The baseline of each rollout of a group.

    Groups whose returns are all equal teach nothing, a group of one included: their advantages are exactly 0, except
    for `reinforce`, which compares with nothing.

    Args:
        returns: One per rollout, whatever number of calls it made: long rollouts do not weigh more.
        estimator: The formula.
        std_eps: Term beside the standard deviation.
    """
    if estimator is Estimator.REINFORCE:
        return [Baseline(0.0, 1.0)] * len(returns)
    if is_flat(returns):
        return [Baseline(value, 0.0) for value in returns]
    mean = statistics.fmean(returns)
    match estimator:
        case Estimator.GRPO:
            return [Baseline(mean, 1.0 / (statistics.stdev(returns) + std_eps))] * len(returns)
        case Estimator.DR_GRPO:
            return [Baseline(mean, 1.0)] * len(returns)
        case Estimator.RLOO:
            total, others = sum(returns), len(returns) - 1
            return [Baseline((total - value) / others, 1.0) for value in returns]


def is_flat(returns: Sequence[float]) -> bool:
    """Whether all returns of a group are equal."""
    return len(set(returns)) <= 1
