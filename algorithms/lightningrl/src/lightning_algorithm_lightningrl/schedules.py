"""Learning rate over the updates of a run."""

from __future__ import annotations

import math
from enum import StrEnum


class Schedule(StrEnum):
    """What the learning rate does after its warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"

    def factor(self, update: int, *, total: int, warmup: int) -> float:
        """Share of the peak learning rate at an update.

        Args:
            update: From 0.
            total: Updates of the run; a falling schedule would reach 0 at this one.
            warmup: Updates of linear rise; the first has 1 / (warmup + 1) of the peak.
        """
        if update < warmup:
            return (update + 1) / (warmup + 1)
        done = (update - warmup) / max(1, total - warmup)
        match self:
            case Schedule.CONSTANT:
                return 1.0
            case Schedule.LINEAR:
                return 1.0 - done
            case Schedule.COSINE:
                return 0.5 * (1.0 + math.cos(math.pi * done))
