"""One operation's view of the store: the tables, the time, and what it has changed that others wait for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias, TypeVar

from agentlightning.store._tables import Tables

Result = TypeVar("Result")


class Topic(StrEnum):
    """What can be waited for."""

    QUEUED = "queued"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work, inside one transaction.

    Attributes:
        now: The store's time, read once.
        new_id: Makes a random id.
        swept: How many overdue attempts were ended just before.
        changed: Topics to notify of when the work is committed.
    """

    tables: Tables
    now: float
    new_id: Callable[[], str]
    swept: int = 0
    changed: set[Topic] = field(default_factory=set)


Operation: TypeAlias = Callable[[Unit], Result]
"""Work that is done inside a transaction; it may be done again if the transaction fails."""
