"""The policy gradient of logged decisions, and the step that follows it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from agentlightning.decisions import Vector, mixed, softmax
from lightning_algorithm_lightningrl.decisions._linear import dot

Gradient = dict[int, float]
"""By index of the weight."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A decision ready to be learned.

    Attributes:
        rows: A vector for each option.
        index: Place of the chosen option.
        propensity: Probability that it had.
        advantage: How much better than expected it turned out.
    """

    rows: list[Vector]
    index: int
    propensity: float
    advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """How decisions are weighed.

    Attributes:
        epsilon: Share of decisions spread evenly over the options.
        temperature: Divides the scores.
        weight_cap: Greatest importance weight.
        entropy: Coefficient of the entropy bonus.
    """

    epsilon: float
    temperature: float
    weight_cap: float
    entropy: float


@dataclass(slots=True, kw_only=True)
class Pass:
    """Sums over the decisions of one pass.

    Attributes:
        gradient: Of the objective, to be climbed.
        entropy: Of the softmax, in nats.
        share: Probability of the chosen options under the current weights.
        weight: Importance weights, before they are cut.
        largest: Greatest of them.
        cut: How many were cut.
    """

    gradient: Gradient = field(default_factory=dict)
    entropy: float = 0.0
    share: float = 0.0
    weight: float = 0.0
    largest: float = 0.0
    cut: int = 0


def ascend(choices: Sequence[Choice], *, weights: Gradient, objective: Objective, scale: float) -> Pass:
    """REINFORCE (Williams 1992) with truncated importance weights (Ionides 2008) and an entropy bonus.

    For the softmax `s` over `score / temperature`, the policy `pi = (1 - epsilon) s + epsilon / n` and the logged
    propensity `mu` of the chosen option `a`, a decision adds `scale` times

        min(pi(a) / mu, cap) A grad log pi(a) + entropy grad H(s)

    where `grad log pi(a) = (1 - epsilon) s(a) / pi(a) * (x_a - sum_b s(b) x_b) / temperature`.
    """
    done = Pass()
    for choice in choices:
        shares = softmax([dot(weights, row) for row in choice.rows], temperature=objective.temperature)
        chosen = mixed(shares, epsilon=objective.epsilon)[choice.index]
        ratio = chosen / choice.propensity
        entropy = -sum(share * math.log(share) for share in shares if share > 0)
        done.entropy += entropy
        done.share += chosen
        done.weight += ratio
        done.largest = max(done.largest, ratio)
        done.cut += ratio > objective.weight_cap
        slope = (1.0 - objective.epsilon) * shares[choice.index] / chosen if chosen else 0.0
        pull = min(ratio, objective.weight_cap) * choice.advantage * slope
        for place, (share, row) in enumerate(zip(shares, choice.rows, strict=True)):
            change = pull * (float(place == choice.index) - share)
            if share > 0:
                change -= objective.entropy * share * (math.log(share) + entropy)
            _add(done.gradient, row, change * scale / objective.temperature)
    return done


def _add(gradient: Gradient, row: Vector, change: float) -> None:
    if change:
        for index, value in row:
            gradient[index] = gradient.get(index, 0.0) + change * value


class Adam(msgspec.Struct, kw_only=True):
    """Adam (Kingma and Ba 2015) over sparse weights: what has no gradient is not touched. Changed in place by `step`.

    Attributes:
        weights: By index; rounded to float32, as they are published.
        first: Running mean of the gradients.
        second: Running mean of their squares.
        steps: Steps so far.
    """

    weights: dict[int, float] = {}
    first: dict[int, float] = {}
    second: dict[int, float] = {}
    steps: int = 0

    def step(self, gradient: Gradient, *, learning_rate: float) -> None:
        """Climbs along a gradient."""
        if not gradient:
            return
        self.steps += 1
        for index, slope in gradient.items():
            mean = self.first[index] = 0.9 * self.first.get(index, 0.0) + 0.1 * slope
            square = self.second[index] = 0.99 * self.second.get(index, 0.0) + 0.01 * slope * slope
            lifted = mean / (1.0 - 0.9**self.steps)
            spread = math.sqrt(square / (1.0 - 0.99**self.steps)) + 1e-8
            self.weights[index] = self.weights.get(index, 0.0) + learning_rate * lifted / spread
        for index, value in zip(gradient, array("f", (self.weights[one] for one in gradient)), strict=True):
            self.weights[index] = value
