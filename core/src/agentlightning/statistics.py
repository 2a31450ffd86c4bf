"""Intervals around means: what a number measured on a few hundred tasks is worth."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

_Z95 = 1.959963984540054
_RESAMPLES = 2_000


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    denominator = 1 + _Z95**2 / n
    centre = (p + _Z95**2 / (2 * n)) / denominator
    half = _Z95 * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2)) / denominator
    # at the ends the bounds equal p up to rounding
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def bootstrap_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over tasks (Efron 1979); needs at least one value."""
    generator = random.Random(seed)
    means = sorted(fmean(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1]


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its 95 % interval: Wilson where all values are 0 or 1, else bootstrap; NaN-free, (0, 0, 1) if empty."""
    if not values:
        return 0.0, 0.0, 1.0
    mean = fmean(values)
    if all(value in (0.0, 1.0) for value in values):
        low, high = wilson_interval(round(sum(values)), len(values))
    else:
        low, high = bootstrap_interval(values)
    return mean, low, high
