"""One operation's view of the store: the tables, the time, and what it has changed that others wait for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from agentlightning.store._tables import Tables

Result = TypeVar("Result")


@dataclass(slots=True)
class Changes:
    """What others wait for.

    Attributes:
        queued: How many rollouts came into the queue, by run (None for those of none).
        completed: Rollouts became terminal.
    """

    queued: dict[str | None, int] = field(default_factory=dict)
    completed: bool = False

    def __bool__(self) -> bool:
        return self.completed or bool(self.queued)

    def queue(self, run_id: str | None) -> None:
        """One more rollout came into the queue."""
        self.queued[run_id] = self.queued.get(run_id, 0) + 1

    def add(self, other: Changes) -> None:
        """Takes in what another operation changed."""
        for run_id, count in other.queued.items():
            self.queued[run_id] = self.queued.get(run_id, 0) + count
        self.completed = self.completed or other.completed

    def clear(self) -> None:
        """Forgets all: it was rolled back."""
        self.queued.clear()
        self.completed = False


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work, inside one transaction.

    Attributes:
        now: The store's time, read once.
        new_id: Makes a random id.
        swept: How many overdue attempts were ended just before.
        changes: Whom to notify when the work is committed.
    """

    tables: Tables
    now: float
    new_id: Callable[[], str]
    swept: int = 0
    changes: Changes = field(default_factory=Changes)


Operation: TypeAlias = Callable[[Unit], Result]
"""Work that is done inside a transaction; it may be done again if the transaction fails."""
