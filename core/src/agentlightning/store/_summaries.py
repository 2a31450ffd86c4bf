"""Rewards summarised: count, mean and spread by key and dimension."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from agentlightning.store._records import RewardSummary


def summaries(rewards: Iterable[tuple[str | None, str, float]]) -> list[RewardSummary]:
    """Summaries of (key, dimension, value), by key (None first), then by dimension."""
    values: dict[tuple[str | None, str], list[float]] = defaultdict(list)
    for key, dimension, value in rewards:
        values[key, dimension].append(value)
    places = sorted(values, key=lambda place: (place[0] is not None, place[0] or "", place[1]))
    return [_summary(key, dimension, values[key, dimension]) for key, dimension in places]


def _summary(key: str | None, dimension: str, values: list[float]) -> RewardSummary:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return RewardSummary(
        key=key,
        dimension=dimension,
        count=len(values),
        mean=mean,
        std=math.sqrt(variance),
        low=min(values),
        high=max(values),
    )
