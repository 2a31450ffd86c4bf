"""Budgets: how much a run may spend."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from agentlightning.errors import BudgetExhausted


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Hard limits of a run; None is unlimited. Evaluation counts too.

    Attributes:
        rollouts: Most rollouts.
        tokens: Most tokens, prompts and answers of recorded LLM calls together.
        seconds: Longest wall time in seconds.
    """

    rollouts: int | None = None
    tokens: int | None = None
    seconds: float | None = None


class BudgetMeter:
    """Counts what a run spends and refuses what its budget does not allow."""

    def __init__(
        self,
        budget: Budget,
        *,
        rollouts: int = 0,
        tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._clock = clock
        self._started = clock()
        self.rollouts = rollouts
        self.tokens = tokens

    @property
    def seconds(self) -> float:
        """Wall time since this process took the run up, in seconds."""
        return self._clock() - self._started

    def reserve(self, rollouts: int) -> None:
        """Counts rollouts about to start.

        Raises:
            BudgetExhausted: They, or what was spent so far, pass a limit; nothing is counted.
        """
        budget = self._budget
        if budget.rollouts is not None and self.rollouts + rollouts > budget.rollouts:
            raise BudgetExhausted(
                f"{rollouts} more rollouts would make {self.rollouts + rollouts}, the budget allows {budget.rollouts}"
            )
        if budget.tokens is not None and self.tokens >= budget.tokens:
            raise BudgetExhausted(f"{self.tokens} tokens are spent, the budget allows {budget.tokens}")
        if budget.seconds is not None and self.seconds >= budget.seconds:
            raise BudgetExhausted(
                f"{self.seconds:.0f} s have passed, the budget allows {budget.seconds:.0f} s"
            )
        self.rollouts += rollouts
