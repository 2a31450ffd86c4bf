"""The session of a write transaction: many operations run in it, with few statements.

Operations ask for rows by key, one at a time. Instead of one round trip for each, an operation whose row is not there
yet is put off; when all have been tried, the rows that they wish for are fetched (and locked) by one statement of a
kind, and the operations start over. What they write is kept back, seen by the operations after them, and sent together.
So an operation that fails has changed nothing, and needs no savepoint.

Locks are never waited for: a row that somebody else has locked makes the operation `Busy`, to be tried again later.
Therefore neither a slow nor a dead session stops others, and rows cause no deadlocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final, TypeVar, cast

from agentlightning.store.backend import RolloutRow
from lightning_plugin_postgres._changes import MARK, NEW_ROLLOUT, Change
from lightning_plugin_postgres._lookups import LEASED_STATES, ROLLOUT, STATE, Key, Lookup, Raw
from lightning_plugin_postgres._pipe import Answer, Pipe
from lightning_plugin_postgres._session import CLOCK, LAST_COMPLETION, QUEUE, QUEUE_OF_RUN, check_text

Value = TypeVar("Value")

_UNKNOWN: Final = object()  # only the server knows
_Place = tuple[Lookup[Any], Key]


class Wanting(Exception):
    """A signal of a session to its writer: the operation starts over when what it wishes for was fetched."""


class Alone(Exception):
    """A signal of a session to its writer: the operation needs a transaction of its own."""


class Busy(Exception):
    """A signal of a session to its writer: somebody else has locked a row; the message says which."""


class Pace(Enum):
    """How a session treats the operations that run in it."""

    COLLECTING = auto()
    """Before the transaction: nothing is found, and only wishes count."""
    TOGETHER = auto()
    """Wishes are put off, and nothing is sent while an operation runs."""
    ALONE = auto()
    """Everything is fetched and sent when it is asked for."""


class WriteSession:
    """One transaction: all that is sent before the pipe is settled. What fails before is rolled back by its owner."""

    writes = True

    def __init__(self, pipe: Pipe, *, completion_lock: int) -> None:
        self.pace = Pace.COLLECTING
        self.due_at: float | None = None
        self.sent = False
        self._pipe = pipe
        self._completion_lock = completion_lock
        self._known: dict[_Place, object] = {}
        self._known_of_job: dict[_Place, object] = {}
        self._busy: set[_Place] = set()
        self._wishes: dict[Lookup[Any], dict[Key, None]] = {}
        self._doubtful: set[Lookup[Any]] = set()
        self._queues: dict[str | None, tuple[list[str], bool]] = {}
        self._queue_wishes: dict[str | None, int] = {}
        self._requeued = False
        self._completion: int | None = None
        self._completion_of_job: int | None = None
        self._completion_wish = False
        self._pending = Outgoing()
        self._pending_of_job = Outgoing()

    def begin(self) -> float:
        """Fetches what was wished for; returns the server's time."""
        clock = self._pipe.send(CLOCK)
        self.fetch()
        ((now, self.due_at),) = clock.rows()
        return float(now)

    def commit(self, marker: int) -> bool:
        """Sends what is pending; whether there is anything to commit, and so the marker is left."""
        if not self._pending.groups and not self.sent:
            return False
        self._flush(marker)
        return True

    def keep(self) -> None:
        """What the operation did is part of the transaction from now on."""
        for place, value in self._known_of_job.items():
            if value is _UNKNOWN:
                self._known.pop(place, None)
            else:
                self._known[place] = value
        if self._completion_of_job is not None:
            self._completion = self._completion_of_job
        if self._requeued:
            self._queues.clear()
        self._pending.take(self._pending_of_job)
        self.forget()

    def forget(self) -> None:
        """The operation has not happened."""
        self._known_of_job = {}
        self._completion_of_job = None
        self._requeued = False
        self._pending_of_job = Outgoing()

    def look(self, lookup: Lookup[Value], keys: Sequence[Key], *, new: bool = False) -> dict[Key, Value]:
        """Those of the values that exist, in the order of the keys."""
        check_text(keys)
        missing = [key for key in keys if self._peek(lookup, key) is _UNKNOWN]
        if missing:
            if any((lookup, key) in self._known_of_job for key in missing) and self.pace is not Pace.ALONE:
                raise Alone  # it reads what it wrote itself, as the server made it
            self._wish(lookup, missing)
            if new:
                self._doubtful.add(lookup)
            self._fetch_or_wait()
        found = {key: self._peek(lookup, key) for key in keys}
        return {
            key: cast("Value", value)
            for key, value in found.items()
            if value is not None and value is not _UNKNOWN
        }

    def queued(self, *, limit: int, run_id: str | None) -> list[RolloutRow]:
        """The next to lease."""
        check_text(run_id)
        if self._requeued:  # by this operation: the queue is known by the server alone
            if self.pace is not Pace.ALONE:
                raise Alone
            self._requeued = False
            self._queues.clear()
        while True:
            ids, whole = self._queues.get(run_id, ([], False))
            rows: list[RolloutRow] = []
            for rollout_id in ids:
                row = self._peek(ROLLOUT, rollout_id)
                if isinstance(row, RolloutRow) and row.status == "queued":
                    rows.append(row)
                    if len(rows) == limit:
                        return rows
            if whole:
                return rows
            self._queue_wishes[run_id] = self._queue_wishes.get(run_id, 0) + limit
            self.expect(STATE, LEASED_STATES)
            self._fetch_or_wait()
            if self.pace is Pace.COLLECTING:
                return []

    def expect(self, lookup: Lookup[Any], keys: Sequence[Key]) -> None:
        """What will be looked for soon is fetched with the rest."""
        self._wish(lookup, [key for key in keys if self._peek(lookup, key) is _UNKNOWN])

    def expect_completion(self) -> None:
        """The last completion will be asked for soon."""
        self._completion_wish = self._completion is None

    def last_completion(self) -> int:
        """The highest completion; nobody else completes anything until the commit."""
        known = self._completion if self._completion_of_job is None else self._completion_of_job
        if known is None:
            self._completion_wish = True
            self._fetch_or_wait()
            known = self._completion
        return known or 0

    def completed(self, completion: int) -> None:
        """The operation gave this number away."""
        self._completion_of_job = max(completion, self.last_completion())

    def query(self, statement: str, parameters: Sequence[object] = ()) -> list[Raw]:
        """Rows of a statement that changes nothing."""
        check_text(parameters)
        if self.pace is not Pace.ALONE:
            raise Alone
        self._flush()
        return self._pipe.send(statement, parameters).rows()

    def put(self, lookup: Lookup[Value], key: Key, value: Value) -> None:
        """What a lookup finds from now on."""
        if isinstance(value, RolloutRow) and value.status == "queued":
            self._requeued = True
        self._known_of_job[lookup, key] = value

    def drop(self, lookup: Lookup[Any], key: Key) -> None:
        """A lookup has to look again."""
        self._known_of_job[lookup, key] = _UNKNOWN

    def write(self, change: Change, row: Sequence[object], *, key: Key = None) -> None:
        """Writes a row with others of its kind; of several with one key, the last one counts."""
        check_text(row)
        if change is NEW_ROLLOUT:
            self._requeued = True
        self._pending_of_job.add(change, row, key=key)

    def change(self, statement: str, parameters: Sequence[object] = ()) -> bool:
        """Writes with a statement of its own; whether it found a row to change."""
        self.sent = True
        return bool(self.query(f"{statement} RETURNING TRUE", parameters))

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Writes with a statement of its own."""
        check_text(parameters)
        self._pending_of_job.add(Change(statement, stays=True), tuple(parameters))

    def learn(self, lookup: Lookup[Value], key: Key, value: Value) -> None:
        """A query found, and locked, what a lookup would find."""
        self._known[lookup, key] = value

    def fetch(self) -> None:
        """Fetches all that was wished for, in one round trip."""
        self._flush()
        asked = [
            (
                lookup,
                list(keys),
                self._pipe.send(lookup.locking, lookup.parameters(list(keys))),
                self._pipe.send(lookup.existing, (list(keys),)) if lookup in self._doubtful else None,
            )
            for lookup, keys in self._wishes.items()
            if keys
        ]
        queues = [
            (run_id, limit, self._pipe.send(QUEUE_LOCKING, (limit,)))
            if run_id is None
            else (run_id, limit, self._pipe.send(QUEUE_OF_RUN_LOCKING, (run_id, limit)))
            for run_id, limit in self._queue_wishes.items()
        ]
        completion = self._send_completion()
        self._wishes, self._queue_wishes, self._completion_wish = {}, {}, False
        for lookup, keys, answer, existing in asked:
            found = lookup.collect(answer.rows())
            for key in keys:
                self._known_of_job.pop((lookup, key), None)
                self._known[lookup, key] = found.get(key)
            if lookup.table and len(found) < len(keys):
                missing = [key for key in keys if key not in found]
                self._find_busy(lookup, missing, existing or self._pipe.send(lookup.existing, (missing,)))
        for run_id, limit, answer in queues:
            rows = [RolloutRow(*row) for row in answer.rows()]
            for row in rows:
                self._known[ROLLOUT, row.id] = row
            self._queues[run_id] = ([row.id for row in rows], len(rows) < limit)
        if completion is not None:
            self._completion = int(completion.rows()[0][0])

    def _find_busy(self, lookup: Lookup[Any], missing: Sequence[Key], existing: Answer) -> None:
        """What exists although it was passed over is locked by somebody else."""
        there = {row[0] for row in existing.rows()}
        self._busy.update((lookup, key) for key in missing if key in there)

    def _wish(self, lookup: Lookup[Any], keys: Sequence[Key]) -> None:
        self._wishes.setdefault(lookup, {}).update(dict.fromkeys(keys))

    def _send_completion(self) -> Answer | None:
        if not self._completion_wish:
            return None
        self._pipe.send("SELECT pg_advisory_xact_lock(%s)", (self._completion_lock,))
        return self._pipe.send(
            LAST_COMPLETION
        )  # a statement of its own: it sees what was committed before the lock

    def _fetch_or_wait(self) -> None:
        if self.pace is Pace.TOGETHER:
            raise Wanting
        if self.pace is Pace.ALONE:
            self.fetch()

    def _peek(self, lookup: Lookup[Any], key: Key) -> object:
        place = (lookup, key)
        if place in self._busy:
            raise Busy(f"{lookup.table.removesuffix('s')} {key!r}")
        value = self._known_of_job.get(place, _UNKNOWN)
        return self._known.get(place, _UNKNOWN) if place not in self._known_of_job else value

    def _flush(self, marker: int | None = None) -> None:
        """Sends what is pending; of an operation that runs alone, also what it wrote so far."""
        if self.pace is Pace.ALONE:
            self._pending.take(self._pending_of_job)
            self._pending_of_job = Outgoing()
        for change, rows in self._pending.groups:
            self.sent = True
            chosen = [rows[key] for key in sorted(rows)] if change.ordered else list(rows.values())  # type: ignore[type-var]
            for row in chosen:
                if marker is not None and change.marked:
                    self._pipe.send(change.marked, (marker, *row))
                    marker = None
                else:
                    self._pipe.send(change.statement, row)
        if marker is not None:
            self._pipe.send(MARK, (marker,))
        self._pending = Outgoing()


class Outgoing:
    """Changes on their way, grouped by kind; a change with a statement of its own stays in its place."""

    def __init__(self) -> None:
        self.groups: list[tuple[Change, dict[Key, Sequence[object]]]] = []
        self._open: dict[Change, dict[Key, Sequence[object]]] = {}
        self._count = 0

    def add(self, change: Change, row: Sequence[object], *, key: Key = None) -> None:
        """Adds a row, in place of one with the same key."""
        rows = self._open.get(change)
        if rows is None:
            if change.stays:
                self._open = {}
            rows = self._open[change] = {}
            self.groups.append((change, rows))
        self._count += 1
        rows[("", self._count) if key is None else key] = row

    def take(self, other: Outgoing) -> None:
        """Adds what another has."""
        for change, rows in other.groups:
            for key, row in rows.items():
                self.add(change, row, key=None if isinstance(key, tuple) else key)


QUEUE_LOCKING: Final = f"{QUEUE} FOR UPDATE SKIP LOCKED"
QUEUE_OF_RUN_LOCKING: Final = f"{QUEUE_OF_RUN} FOR UPDATE SKIP LOCKED"
