"""The batch on which all implementations compute: the same numbers everywhere, from the standard library alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

ROWS, WIDTH = 8, 12
GROUP = 4
"""Rows of one task; rows of a task are adjacent."""

Matrix = list[list[float]]


@dataclass(frozen=True)
class Rows:
    """Eight rollouts as padded rows of tool outputs (mask 0) and sampled tokens (mask 1).

    Attributes:
        mask: 1 where the policy sampled. Every row but one has a tool output inside, one row has two.
        new: Log-probabilities under the weights being trained.
        old: Under the learner at the start of the update.
        sampler: As the sampler reported them.
        reference: Under the reference policy.
        values: A critic's.
        rewards: Of each row.
        second: Of each row, in another dimension.
        advantages: Of each row.
        direction: Gradients are compared by their product with this.
        predicted: A critic's values under the weights being trained.
        targets: What they are to be.
    """

    mask: Matrix = field(default_factory=list)
    new: Matrix = field(default_factory=list)
    old: Matrix = field(default_factory=list)
    sampler: Matrix = field(default_factory=list)
    reference: Matrix = field(default_factory=list)
    values: Matrix = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    direction: Matrix = field(default_factory=list)
    predicted: Matrix = field(default_factory=list)
    targets: Matrix = field(default_factory=list)


def rows(*, spread: float = 0.3, seed: int = 6) -> Rows:
    """Draws the batch.

    Args:
        spread: Deviation of the log-ratios; large ones reach every bound.
        seed: Of the draw.
    """
    rng = random.Random(seed)

    def matrix(low: float, high: float) -> Matrix:
        return [[rng.uniform(low, high) for _ in range(WIDTH)] for _ in range(ROWS)]

    def near(base: Matrix, width: float) -> Matrix:
        return [[min(-1e-3, value + rng.gauss(0.0, width)) for value in row] for row in base]

    mask = []
    for row in range(ROWS):
        length = WIDTH - row % 3
        hole = 3 + row % 4
        sampled = [float(place < length) for place in range(WIDTH)]
        if row != 2:
            sampled[hole : hole + 2] = [0.0, 0.0]
        if row == 5:
            sampled[9] = 0.0
        mask.append(sampled)
    old = matrix(-3.0, -0.05)
    return Rows(
        mask=mask,
        new=near(old, spread),
        old=old,
        sampler=near(old, spread / 2),
        reference=near(old, spread),
        values=matrix(0.0, 1.0),
        rewards=[float(rng.random() < 0.5) + 0.25 * row for row in range(ROWS)],
        second=[rng.uniform(0.0, 3.0) for _ in range(ROWS)],
        advantages=[rng.gauss(0.0, 1.0) for _ in range(ROWS)],
        direction=matrix(-1.0, 1.0),
        predicted=matrix(-0.5, 1.5),
        targets=matrix(-1.0, 2.0),
    )
