"""Rollouts and attempts in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from agentlightning.store._queries import RolloutQuery
from agentlightning.store._rows import AttemptRow, RolloutRow

_ROLLOUT: Final = "INSERT INTO rollouts VALUES (NULL" + ", ?" * 16 + ")"
_ATTEMPT: Final = "INSERT INTO attempts VALUES (NULL" + ", ?" * 16 + ")"


class SqliteRollouts:
    """Rollouts in a table; the queue and the order of completion are partial indices over it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    def add(self, rows: Sequence[RolloutRow]) -> None:
        """Adds rows in order, numbering them."""
        self._connection.executemany(_ROLLOUT, [msgspec.structs.astuple(row)[1:] for row in rows])

    def get(self, rollout_id: str) -> RolloutRow | None:
        """One row."""
        row = self._execute("SELECT * FROM rollouts WHERE id = ?", (rollout_id,)).fetchone()
        return None if row is None else RolloutRow(*row)

    def many(self, rollout_ids: Sequence[str]) -> dict[str, RolloutRow]:
        """Those of the rows that exist, by id."""
        if len(rollout_ids) == 1:
            row = self.get(rollout_ids[0])
            return {} if row is None else {row.id: row}
        rows = self._execute(
            "SELECT * FROM rollouts WHERE id IN (SELECT value FROM json_each(?))", (json_list(rollout_ids),)
        )
        found = {row[1]: RolloutRow(*row) for row in rows}
        return {rollout_id: found[rollout_id] for rollout_id in rollout_ids if rollout_id in found}

    def queued(self, *, limit: int, run_id: str | None) -> list[RolloutRow]:
        """The next to lease."""
        if run_id is None:
            rows = self._execute(
                "SELECT * FROM rollouts INDEXED BY rollouts_queue WHERE status = 'queued'"
                " ORDER BY priority DESC, number LIMIT ?",
                (limit,),
            )
        else:
            rows = self._execute(
                "SELECT * FROM rollouts INDEXED BY rollouts_queue_of_run WHERE status = 'queued' AND run_id = ?"
                " ORDER BY priority DESC, number LIMIT ?",
                (run_id, limit),
            )
        return [RolloutRow(*row) for row in rows]

    def save(self, row: RolloutRow) -> None:
        """Writes what may change: from `status` on."""
        self._execute(
            "UPDATE rollouts SET status = ?, attempts = ?, resources = ?, completion = ?, finished_at = ?,"
            " output = ?, failure = ? WHERE number = ?",
            (*row.changing, row.number),
        )

    def find(self, query: RolloutQuery, *, limit: int, cursor: int | None) -> list[RolloutRow]:
        """Rows in order of creation, beyond the number `cursor`."""
        where, values = rollout_filter(query)
        if cursor is not None:
            where.append("number < ?" if query.newest_first else "number > ?")
            values.append(cursor)
        statement = (
            f"SELECT * FROM rollouts WHERE {' AND '.join(where) or 'TRUE'}"  # noqa: S608 - parts are constants
            f" ORDER BY number {'DESC' if query.newest_first else 'ASC'} LIMIT ?"
        )
        return [RolloutRow(*row) for row in self._execute(statement, (*values, limit))]

    def last_completion(self) -> int:
        """The highest completion there is, 0 without any."""
        return int(
            self._execute(
                "SELECT coalesce(max(completion), 0) FROM rollouts WHERE completion IS NOT NULL"
            ).fetchone()[0]
        )

    def completed(self, *, after: int, run_id: str | None, limit: int) -> list[RolloutRow]:
        """Terminal rows in order of completion."""
        if run_id is None:
            rows = self._execute(
                "SELECT * FROM rollouts WHERE completion > ? ORDER BY completion LIMIT ?", (after, limit)
            )
        else:
            rows = self._execute(
                "SELECT * FROM rollouts WHERE run_id = ? AND completion > ? ORDER BY completion LIMIT ?",
                (run_id, after, limit),
            )
        return [RolloutRow(*row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many rows by status."""
        return dict(self._execute("SELECT status, count(*) FROM rollouts GROUP BY status").fetchall())

    def queue_length(self) -> int:
        """How many rows are queued."""
        return int(self._execute("SELECT count(*) FROM rollouts WHERE status = 'queued'").fetchone()[0])

    def oldest_queued(self) -> float | None:
        """The earliest `created_at` of what is queued."""
        row = self._execute("SELECT min(created_at) FROM rollouts WHERE status = 'queued'").fetchone()
        return None if row[0] is None else float(row[0])

    def expendable(self, *, finished_before: float, keep_runs: Sequence[str], limit: int) -> list[RolloutRow]:
        """Terminal rows that finished before and are of none of the runs, in order of completion."""
        rows = self._execute(
            "SELECT * FROM rollouts WHERE completion < (SELECT max(completion) FROM rollouts WHERE completion IS NOT"
            " NULL) AND finished_at < ? AND (run_id IS NULL OR run_id NOT IN (SELECT value FROM json_each(?)))"
            " ORDER BY completion LIMIT ?",
            (finished_before, json_list(keep_runs), limit),
        )
        return [RolloutRow(*row) for row in rows]

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        self._connection.executemany("DELETE FROM rollouts WHERE number = ?", [(one,) for one in numbers])


class SqliteAttempts:
    """Attempts in a table; when the next one is due is an index over it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    def add(self, row: AttemptRow) -> None:
        """Adds a row, numbering it."""
        self._execute(_ATTEMPT, msgspec.structs.astuple(row)[1:])

    def get(self, attempt_id: str) -> AttemptRow | None:
        """One row."""
        row = self._execute("SELECT * FROM attempts WHERE id = ?", (attempt_id,)).fetchone()
        return None if row is None else AttemptRow(*row)

    def of(self, rollout_id: str) -> list[AttemptRow]:
        """All attempts of a rollout, by sequence."""
        rows = self._execute("SELECT * FROM attempts WHERE rollout_id = ? ORDER BY sequence", (rollout_id,))
        return [AttemptRow(*row) for row in rows]

    def newest(self, rollout_id: str) -> AttemptRow | None:
        """The newest attempt of a rollout."""
        row = self._execute(
            "SELECT * FROM attempts WHERE rollout_id = ? ORDER BY sequence DESC LIMIT 1", (rollout_id,)
        ).fetchone()
        return None if row is None else AttemptRow(*row)

    def save(self, row: AttemptRow) -> None:
        """Writes what may change, from `status` on, without the counts of spans."""
        self._execute(
            "UPDATE attempts SET status = ?, expires_at = ?, due_at = ?, finished_at = ?, output = ?, failure = ?"
            " WHERE number = ?",
            (row.status, row.expires_at, row.due_at, row.finished_at, row.output, row.failure, row.number),
        )

    def count(self, number: int, *, spans: int, late: int, size_bytes: int) -> None:
        """Writes the counts of spans and the sum of their sizes."""
        self._execute(
            "UPDATE attempts SET spans = ?, late = ?, size_bytes = ? WHERE number = ?",
            (spans, late, size_bytes, number),
        )

    def totals(self) -> tuple[int, int, int]:
        """How many rows, spans and bytes of spans."""
        row = self._execute(
            "SELECT count(*), coalesce(sum(spans), 0), coalesce(sum(size_bytes), 0) FROM attempts"
        ).fetchone()
        return int(row[0]), int(row[1]), int(row[2])

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        self._connection.executemany("DELETE FROM attempts WHERE number = ?", [(one,) for one in numbers])

    def next_due(self) -> float | None:
        """The earliest `due_at`."""
        row = self._execute("SELECT min(due_at) FROM attempts WHERE due_at IS NOT NULL").fetchone()
        return None if row[0] is None else float(row[0])

    def overdue(self, now: float, *, limit: int) -> list[AttemptRow]:
        """Rows whose `due_at` has come, earliest first."""
        rows = self._execute("SELECT * FROM attempts WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, limit))
        return [AttemptRow(*row) for row in rows]


def rollout_filter(query: RolloutQuery) -> tuple[list[str], list[object]]:
    """Conditions over the columns of `rollouts`, and their values."""
    where: list[str] = []
    values: list[object] = []
    for column, value in (("run_id", query.run_id), ('"group"', query.group), ("mode", query.mode)):
        if value is not None:
            where.append(f"rollouts.{column} = ?")
            values.append(str(value))
    for column, members in (("id", query.ids), ("status", query.statuses)):
        if members is not None:
            where.append(f"rollouts.{column} IN (SELECT value FROM json_each(?))")  # noqa: S608 - a constant
            values.append(json_list(members))
    return where, values


def json_list(members: Sequence[str]) -> str:
    """What `json_each` takes apart."""
    return msgspec.json.encode(list(members)).decode()
