"""Sampling without replacement with given chances: who is among those that are drawn, and how likely that was."""

from __future__ import annotations

import math
from collections.abc import Sequence


def inclusion(logs: Sequence[float], count: int) -> list[float]:
    """Logarithm of each one's chance to be among `count`: in proportion to its share, as far as none is above 1.

    Args:
        logs: Logarithms of the shares.
        count: How many are drawn, from 1 to as many as there are.
    """
    order = sorted(range(len(logs)), key=logs.__getitem__, reverse=True)
    rest = [logs[order[-1]]]
    for index in order[-2::-1]:
        rest.append(_log_add(logs[index], rest[-1]))
    rest.reverse()
    certain = 0
    while certain < count - 1 and math.log(count - certain) + logs[order[certain]] >= rest[certain]:
        certain += 1
    found = [0.0] * len(logs)
    for index in order[certain:]:
        found[index] = min(0.0, math.log(count - certain) + logs[index] - rest[certain])
    return found


def _log_add(one: float, other: float) -> float:
    return max(one, other) + math.log1p(math.exp(-abs(one - other)))


def systematic(order: Sequence[int], chances: Sequence[float], count: int, *, start: float) -> list[int]:
    """`count` of the order: those where the sum of the chances passes `start`, `start` + 1, and so on.

    Args:
        order: What to draw from, by index.
        chances: Logarithms; they are of `count` in all, but for rounding.
        count: How many.
        start: Uniform from 0 to 1.
    """
    certain = {index for index in order if chances[index] == 0.0}
    passed: list[int] = []
    left: list[int] = []
    total = 0.0
    for index in order:
        if index in certain:
            continue
        total += math.exp(chances[index])
        (passed if total > start + len(passed) else left).append(index)
    missing = count - len(certain)
    chosen = certain.union([*passed, *reversed(left)][:missing])
    return [index for index in order if index in chosen]
