"""Lookups: rows that operations ask for by key. Those of many operations are fetched together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from agentlightning.store.backend import AttemptRow, ResourceRow, RolloutRow, RunRow

Value = TypeVar("Value")
Key: TypeAlias = Hashable
Raw: TypeAlias = tuple[Any, ...]
"""A row as the driver hands it over."""


def _one_array(keys: Sequence[Key]) -> tuple[object, ...]:
    return (list(keys),)


def _two_arrays(keys: Sequence[Any]) -> tuple[object, ...]:
    return [key[0] for key in keys], [key[1] for key in keys]


@dataclass(frozen=True, eq=False)
class Lookup(Generic[Value]):
    """What is looked up, and how.

    Attributes:
        select: The statement.
        collect: Values by key, of raw rows.
        parameters: The statement's parameters, of keys.
        table: Where the rows are locked when they are read to be changed; empty where they are not.
    """

    select: str
    collect: Callable[[Iterable[Raw]], dict[Key, Value]]
    parameters: Callable[[Sequence[Key]], tuple[object, ...]] = _one_array
    table: str = ""

    @property
    def locking(self) -> str:
        """The statement that also locks, and passes over what others have locked."""
        return f"{self.select} FOR UPDATE SKIP LOCKED" if self.table else self.select

    @property
    def existing(self) -> str:
        """Which of the keys there are, locked or not."""
        return f"SELECT id FROM {self.table} WHERE id = ANY(%s)"  # noqa: S608 - a constant


def _states(rows: Iterable[Raw]) -> dict[Key, tuple[ResourceRow, ...]]:
    found: dict[Key, list[ResourceRow]] = defaultdict(list)
    for row in rows:
        found[row[7]].append(ResourceRow(*row))
    return {state: tuple(members) for state, members in found.items()}


ROLLOUT: Final = Lookup(
    "SELECT * FROM rollouts WHERE id = ANY(%s)",
    lambda rows: {row[1]: RolloutRow(*row) for row in rows},
    table="rollouts",
)
"""Rollouts by id."""

ATTEMPT: Final = Lookup(
    "SELECT * FROM attempts WHERE id = ANY(%s)",
    lambda rows: {row[1]: AttemptRow(*row) for row in rows},
    table="attempts",
)
"""Attempts by id."""

NEWEST: Final = Lookup(
    "SELECT DISTINCT ON (rollout_id) rollout_id, id FROM attempts WHERE rollout_id = ANY(%s)"
    " ORDER BY rollout_id, sequence DESC",
    lambda rows: {row[0]: str(row[1]) for row in rows},
)
"""The id of the newest attempt by its rollout's id; it stays while the rollout is locked."""

RUN: Final = Lookup(
    "SELECT * FROM runs WHERE id = ANY(%s)",
    lambda rows: {row[1]: RunRow(*row) for row in rows},
    table="runs",
)
"""Runs by id."""

ANSWER: Final = Lookup(
    "SELECT key, digest, ids FROM keys WHERE key = ANY(%s)",
    lambda rows: {row[0]: (bytes(row[1]), tuple(row[2])) for row in rows},
)
"""What was answered by idempotency key."""

STATE: Final = Lookup("SELECT * FROM resource_sets WHERE state = ANY(%s) ORDER BY version", _states)
"""Resource sets by state."""

LEASED_STATES: Final = ("live", "canary")
"""States of resource sets from which a lease chooses."""

SPAN: Final = Lookup(
    "SELECT attempt, span_id FROM spans"
    " JOIN unnest(%s::bigint[], %s::text[]) AS asked (a, i) ON attempt = a AND span_id = i",
    lambda rows: {(row[0], row[1]): True for row in rows},
    _two_arrays,
)
"""Spans by attempt and span id."""
