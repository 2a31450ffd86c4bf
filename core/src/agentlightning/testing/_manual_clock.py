"""A clock that goes when it is told to."""

from __future__ import annotations


class ManualClock:
    """Stands still until `advance`; hand it to what takes a `clock`."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Lets time pass; a negative duration is a clock that was set back."""
        self.now += seconds
