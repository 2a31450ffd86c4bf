"""Credit by a critic: a ridge regression of the return to go on hashed features of the state, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentlightning.pipeline._credit_rule import CreditRule, Share
from agentlightning.pipeline._features import FeatureHasher, Features
from agentlightning.pipeline._returns import over_transitions, returns_to_go, rewards_of, steps
from agentlightning.types import Experience, Trajectory

_ITERATIONS: Final = 64
_TOLERANCE: Final = 1e-12


def critic(experience: Experience, rule: CreditRule, /) -> list[Share]:
    """`G^lambda_k`, the return to go that trusts a learned value of states as far as `trace` says.

    `G^lambda_k = V_k + sum over l >= k of (discount trace)^(l-k) (r_l + discount V_(l+1) - V_l)` (generalised advantage
    estimation, arXiv 1506.02438, equation 16, over decisions), `V` after the last step being 0. `V_k` becomes
    `Transition.value`. The batch is cut into folds of whole trajectories, and each is judged by a critic of the others,
    so no value knows the return that it is compared with; with a single trajectory there is no value.
    """
    made = FeatureHasher(rule.features)
    rows = [_Row.of(trajectory, rule, made) for trajectory in experience.trajectories]
    order = sorted(range(len(rows)), key=lambda number: rows[number].key)
    values: dict[int, list[float] | None] = {}
    folds = min(rule.folds, len(rows))
    for fold in range(folds):
        inside = set(order[fold::folds])
        outside = [rows[number] for number in order if number not in inside]
        model = Ridge.fit(
            [one for row in outside for one in row.features],
            [one for row in outside for one in row.to_go],
            ridge=rule.ridge,
        )
        for number in inside:
            values[number] = [model.predict(one) for one in rows[number].features] if outside else None
    return [_share(row, values[number], rule) for number, row in enumerate(rows)]


@dataclass(frozen=True, slots=True)
class _Row:
    """One trajectory as the critic sees it, by step."""

    trajectory: Trajectory
    features: list[Features]
    rewards: list[float]
    to_go: list[float]

    @classmethod
    def of(cls, trajectory: Trajectory, rule: CreditRule, made: FeatureHasher) -> _Row:
        rewards = rewards_of(trajectory)
        return cls(
            trajectory,
            [made.state(step[0]) for step in steps(trajectory)],
            rewards,
            returns_to_go(rewards, rule.discount),
        )

    @property
    def key(self) -> tuple[str, int, str]:
        """Siblings of a task come one after the other, so that they fall into different folds."""
        rollout = self.trajectory.rollout
        return rollout.group or rollout.id, rollout.sample, self.trajectory.attempt.id


def _share(row: _Row, values: Sequence[float] | None, rule: CreditRule) -> Share:
    total = row.to_go[0] if row.to_go else row.trajectory.outcome or 0.0
    if values is None:
        return Share(
            total=total,
            credits=tuple(over_transitions(row.trajectory, row.to_go)),
            remarks=("no other trajectory that a critic could learn from",),
        )
    after = [*values, 0.0][1:]
    surprises = [
        reward + rule.discount * following - value
        for reward, following, value in zip(row.rewards, after, values, strict=True)
    ]
    ahead = returns_to_go(surprises, rule.discount * rule.trace)
    expected = [value + more for value, more in zip(values, ahead, strict=True)]
    return Share(
        total=total,
        credits=tuple(over_transitions(row.trajectory, expected)),
        values=tuple(over_transitions(row.trajectory, values)),
    )


@dataclass(frozen=True, slots=True)
class Ridge:
    """A linear function of sparse features, with an intercept; features that were never seen have no weight."""

    intercept: float
    weights: dict[int, float]

    @classmethod
    def fit(cls, rows: Sequence[Features], targets: Sequence[float], *, ridge: float) -> Ridge:
        """Minimises `sum (w x - y)^2 + ridge |w|^2` by conjugate gradients; the intercept is the mean target."""
        mean = math.fsum(targets) / len(targets) if targets else 0.0
        seen = sorted({index for row in rows for index, _ in row})
        places = {index: place for place, index in enumerate(seen)}
        packed = [tuple((places[index], value) for index, value in row) for row in rows]
        weights = [0.0] * len(seen)
        residual = _transposed(packed, [target - mean for target in targets], len(seen))
        direction = list(residual)
        square = _dot(residual, residual)
        enough = _TOLERANCE * square
        for _ in range(_ITERATIONS):
            if square <= enough:
                break
            along = [sum(direction[place] * value for place, value in row) for row in packed]
            image = _added(_transposed(packed, along, len(seen)), ridge, direction)
            step = square / _dot(direction, image)
            weights = _added(weights, step, direction)
            residual = _added(residual, -step, image)
            before, square = square, _dot(residual, residual)
            direction = _added(residual, square / before, direction)
        return cls(mean, dict(zip(seen, weights, strict=True)))

    def predict(self, row: Features) -> float:
        """Value of a row."""
        return self.intercept + sum(self.weights.get(index, 0.0) * value for index, value in row)


def _added(one: Sequence[float], factor: float, other: Sequence[float]) -> list[float]:
    return [a + factor * b for a, b in zip(one, other, strict=True)]


def _transposed(rows: Sequence[Features], values: Sequence[float], size: int) -> list[float]:
    total = [0.0] * size
    for row, factor in zip(rows, values, strict=True):
        for index, value in row:
            total[index] += factor * value
    return total


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
