"""What every row shares: contenders take turns, the first round warms up, medians and spreads are kept."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Row:
    """Result of one benchmark.

    Attributes:
        ratios: Opponent's cost divided by ours, or our throughput divided by theirs: above one, ours is better.
        detail: What was measured, with units in the names.
    """

    ratios: Mapping[str, float]
    detail: Mapping[str, object]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: list[float], *, digits: int = 4) -> Spread:
        """Summarises samples, rounded for reading."""
        return cls(*(round(x, digits) for x in (statistics.median(samples), min(samples), max(samples))))


def interleaved(contenders: Mapping[str, Callable[[], Sample]], *, rounds: int) -> dict[str, list[Sample]]:
    """Lets all contenders take turns, so that noise of the machine hits each alike; drops a first round."""
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, measure in contenders.items():
            samples[name].append(measure())
    return {name: values[1:] for name, values in samples.items()}
