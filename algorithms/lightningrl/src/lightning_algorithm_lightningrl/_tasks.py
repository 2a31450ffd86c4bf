"""Which task comes when: shuffled epochs, and a curriculum over them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from agentlightning.types import Json
from lightning_algorithm_lightningrl._modes import Curriculum

_MOST_EPOCHS_PASSED_OVER = 8
"""Of tasks that are all too easy or too hard, some are played nevertheless."""


def choose_tasks(tasks: Sequence[Json], *, count: int, step: int, seed: int) -> list[Json]:
    """The tasks of a step: consecutive pieces of one shuffled epoch after the other, known from the step alone."""
    return [
        tasks[task_at(place, count=len(tasks), seed=seed)]
        for place in range(step * count, (step + 1) * count)
    ]


def task_at(place: int, *, count: int, seed: int) -> int:
    """Which task comes at a place of the endless order, as its index.

    Args:
        place: From 0.
        count: Number of tasks.
        seed: Of the order.
    """
    epoch, index = divmod(place, count)
    return _order(seed, epoch, count)[index]


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


@dataclass(kw_only=True)
class TaskOrder:
    """Hands out places of the endless order one after the other, and passes over what is too easy or too hard.

    Attributes:
        tasks: All of them.
        seed: Of the order and of what is passed over.
        curriculum: What is passed over; None for nothing.
        place: The next one.
        rates: Last pass rate of each task that has one, by its index.
        passed_over: Places that were passed over so far.
    """

    tasks: Sequence[Json]
    seed: int
    curriculum: Curriculum | None = None
    place: int = 0
    rates: dict[int, float] = field(default_factory=dict)
    passed_over: int = 0

    def following(self) -> int:
        """The next place to play; the one after it is next."""
        last = self.place + _MOST_EPOCHS_PASSED_OVER * len(self.tasks)
        while self.place < last and self._passes_over(self.place):
            self.place += 1
            self.passed_over += 1
        self.place += 1
        return self.place - 1

    def task(self, place: int) -> Json:
        """The task at a place."""
        return self.tasks[self._index(place)]

    def learned(self, place: int, outcomes: Sequence[float]) -> None:
        """Takes in the outcomes of the rollouts of a place."""
        if self.curriculum is not None and outcomes:
            passed = sum(outcome >= self.curriculum.passed for outcome in outcomes)
            self.rates[self._index(place)] = passed / len(outcomes)

    def state(self) -> dict[str, Json]:
        """For a checkpoint."""
        return {"place": self.place, "rates": {str(index): rate for index, rate in self.rates.items()}}

    def restore(self, state: Mapping[str, Json]) -> None:
        """The inverse of `state`; an empty one changes nothing."""
        self.place = int(str(state.get("place", 0)))
        rates = state.get("rates")
        if isinstance(rates, Mapping):
            self.rates = {int(index): float(rate) for index, rate in rates.items()}

    def _index(self, place: int) -> int:
        return task_at(place, count=len(self.tasks), seed=self.seed)

    def _passes_over(self, place: int) -> bool:
        rate = self.rates.get(self._index(place))
        if self.curriculum is None or rate is None:
            return False
        fits = self.curriculum.lowest < rate < self.curriculum.highest
        return not fits and random.Random(f"{self.seed}/pass/{place}").random() >= self.curriculum.keep
