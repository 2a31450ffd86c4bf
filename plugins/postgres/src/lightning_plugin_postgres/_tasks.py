"""Tasks: jobs of the writer, and how often and how they have been tried."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentlightning.store.backend import Job

_NAP_S: Final = (0.002, 0.012)  # before the next try; doubled with each up to 32 times


class Ids:
    """Random ids that come again when an operation starts over."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._drawn: list[str] = []

    def from_start(self) -> Callable[[], str]:
        """Gives the ids in the order in which they were drawn, then new ones."""
        place = 0

        def draw() -> str:
            nonlocal place
            if place == len(self._drawn):
                self._drawn.append(self._new_id())
            place += 1
            return self._drawn[place - 1]

        return draw


@dataclass(eq=False)
class Task:
    """A job and its tries.

    Attributes:
        until: When it is given up, by the monotonic clock.
        alone: It needs a transaction of its own.
        waiting: It is to be tried again, not before `not_before`.
        settled: It has an outcome: the job's result or error.
    """

    job: Job
    ids: Ids
    until: float
    alone: bool = False
    waiting: bool = False
    settled: bool = False
    not_before: float = 0.0
    tries: int = 0

    def wait(self) -> None:
        """Puts the next try off for a while."""
        self.waiting = True
        self.not_before = time.monotonic() + random.uniform(*_NAP_S) * 2 ** min(self.tries, 5)
        self.tries += 1

    def settle(self, error: Exception | None = None) -> None:
        """Ends, with the error or with the job's result."""
        if error is not None:
            self.job.error = error
        self.settled = True

    @property
    def is_over(self) -> bool:
        """Whether there is no time for another try."""
        return time.monotonic() >= self.until
