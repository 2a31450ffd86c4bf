"""Sessions: how tables read and write, inside one transaction. Reading is the simple one; writing is `_writing`."""

# ruff: noqa: ARG002 - a session that reads refuses what one that writes takes

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from agentlightning.store.backend import RolloutRow
from lightning_plugin_postgres._changes import Change
from lightning_plugin_postgres._lookups import Key, Lookup, Raw
from lightning_plugin_postgres._pipe import Pipe

Value = TypeVar("Value")


class Session(Protocol):
    """What tables need of a transaction.

    Attributes:
        writes: Rows are read to be changed: they are locked.
        due_at: When the next attempt is due, as far as this transaction can end it.
    """

    writes: bool
    due_at: float | None

    def look(self, lookup: Lookup[Value], keys: Sequence[Key], *, new: bool = False) -> dict[Key, Value]:
        """Those of the values that exist, in the order of the keys; of new keys, none is expected to."""
        ...

    def expect_completion(self) -> None:
        """The last completion will be asked for soon."""
        ...

    def queued(self, *, limit: int, run_id: str | None) -> list[RolloutRow]:
        """The next to lease."""
        ...

    def last_completion(self) -> int:
        """The highest completion; while writing, nobody else completes anything until the commit."""
        ...

    def query(self, statement: str, parameters: Sequence[object] = ()) -> list[Raw]:
        """Rows of a statement that changes nothing."""
        ...

    def put(self, lookup: Lookup[Value], key: Key, value: Value) -> None:
        """What a lookup finds from now on."""
        ...

    def drop(self, lookup: Lookup[Any], key: Key) -> None:
        """A lookup has to look again: what it finds is known by the server alone."""
        ...

    def learn(self, lookup: Lookup[Value], key: Key, value: Value) -> None:
        """A query found, and locked, what a lookup would find."""
        ...

    def completed(self, completion: int) -> None:
        """This number was given away."""
        ...

    def write(self, change: Change, row: Sequence[object], *, key: Key = None) -> None:
        """Writes a row with others of its kind; of several with one key, the last one counts."""
        ...

    def change(self, statement: str, parameters: Sequence[object] = ()) -> bool:
        """Writes with a statement of its own; whether it found a row to change."""
        ...

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Writes with a statement of its own."""
        ...


CLOCK = (
    "SELECT extract(epoch FROM clock_timestamp())::float8,"
    " (SELECT min(due_at) FROM attempts WHERE due_at IS NOT NULL)"
)
"""The server's time, and when the next attempt is due."""

LAST_COMPLETION = "SELECT coalesce(max(completion), 0) FROM rollouts WHERE completion IS NOT NULL"
QUEUE = "SELECT * FROM rollouts WHERE status = 'queued' ORDER BY priority DESC, number LIMIT %s"
QUEUE_OF_RUN = (
    "SELECT * FROM rollouts WHERE status = 'queued' AND run_id = %s ORDER BY priority DESC, number LIMIT %s"
)


class ReadSession:
    """Reads one snapshot; locks and changes nothing."""

    writes = False

    def __init__(self, pipe: Pipe, *, due_at: float | None) -> None:
        self.due_at = due_at
        self._pipe = pipe

    def look(self, lookup: Lookup[Value], keys: Sequence[Key], *, new: bool = False) -> dict[Key, Value]:
        """Those of the values that exist, in the order of the keys."""
        del new
        found = lookup.collect(self.query(lookup.select, lookup.parameters(keys))) if keys else {}
        return {key: found[key] for key in keys if key in found}

    def expect_completion(self) -> None:
        """Has no use for it."""

    def queued(self, *, limit: int, run_id: str | None) -> list[RolloutRow]:
        """The next to lease."""
        rows = self.query(QUEUE, (limit,)) if run_id is None else self.query(QUEUE_OF_RUN, (run_id, limit))
        return [RolloutRow(*row) for row in rows]

    def last_completion(self) -> int:
        """The highest completion."""
        return int(self.query(LAST_COMPLETION)[0][0])

    def query(self, statement: str, parameters: Sequence[object] = ()) -> list[Raw]:
        """Rows of a statement."""
        check_text(parameters)
        return self._pipe.send(statement, parameters).rows()

    def put(self, lookup: Lookup[Value], key: Key, value: Value) -> None:
        """Refuses."""
        raise self._refusal()

    def drop(self, lookup: Lookup[Any], key: Key) -> None:
        """Refuses."""
        raise self._refusal()

    def learn(self, lookup: Lookup[Value], key: Key, value: Value) -> None:
        """Has no use for it."""

    def completed(self, completion: int) -> None:
        """Refuses."""
        raise self._refusal()

    def write(self, change: Change, row: Sequence[object], *, key: Key = None) -> None:
        """Refuses."""
        raise self._refusal()

    def change(self, statement: str, parameters: Sequence[object] = ()) -> bool:
        """Refuses."""
        raise self._refusal()

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Refuses."""
        raise self._refusal()

    def _refusal(self) -> RuntimeError:
        return RuntimeError("an operation that was announced as reading writes; run it with `Executor.write`")


def check_text(values: object) -> None:
    """Lets values pass that PostgreSQL can store.

    Raises:
        ValueError: A text has a NUL character.
    """
    if isinstance(values, str):
        if "\0" in values:
            raise ValueError(f"PostgreSQL cannot store text with a NUL character, got {values!r}; remove it")
    elif isinstance(values, list | tuple):
        for value in values:
            check_text(value)
    elif isinstance(values, msgspec.Struct):
        check_text(msgspec.structs.astuple(values))
