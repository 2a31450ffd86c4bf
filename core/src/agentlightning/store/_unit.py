"""One operation's view of the store: the tables, the time, and what it has changed that others wait for."""

from __future__ import annotations

from collections import Counter
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

    queued: Counter[str | None] = field(default_factory=Counter)
    completed: bool = False

    def __bool__(self) -> bool:
        return self.completed or bool(self.queued)

    def add(self, other: Changes) -> None:
        """Takes in what another operation changed."""
        self.queued.update(other.queued)
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
