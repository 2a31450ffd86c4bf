"""Linear models over hashed features: sparse, without any library."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.decisions import Vector


def dot(weights: dict[int, float], vector: Vector) -> float:
    """Inner product of sparse weights and a vector."""
    return sum(weights.get(index, 0.0) * value for index, value in vector)


def ridge(
    rows: Sequence[Vector], values: Sequence[float], *, penalty: float = 1.0, sweeps: int = 30
) -> dict[int, float]:
    """Weights that minimise the squared error plus `penalty` times their squared norm.

    Dual coordinate descent (Hsieh et al. 2008 for SVMs, here with the squared loss): exact in the limit, and the same
    each time.
    """
    weights: dict[int, float] = {}
    duals = [0.0] * len(rows)
    norms = [_squared(row) for row in rows]
    for _ in range(sweeps):
        largest = 0.0
        for place, (row, value) in enumerate(zip(rows, values, strict=True)):
            change = (value - dot(weights, row) - penalty * duals[place]) / (norms[place] + penalty)
            duals[place] += change
            largest = max(largest, abs(change))
            for index, entry in row:
                weights[index] = weights.get(index, 0.0) + change * entry
        if largest < 1e-7:
            break
    return weights


def follow(weights: dict[int, float], row: Vector, *, value: float, rate: float) -> None:
    """Moves weights towards predicting a value: normalised least mean squares, which it changes in place."""
    error = value - dot(weights, row)
    scale = rate * error / (_squared(row) or 1.0)
    for index, entry in row:
        weights[index] = weights.get(index, 0.0) + scale * entry


def _squared(row: Vector) -> float:
    """Squared norm, with values of one index added up first."""
    summed: dict[int, float] = {}
    for index, entry in row:
        summed[index] = summed.get(index, 0.0) + entry
    return sum(entry * entry for entry in summed.values())
