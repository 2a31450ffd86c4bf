"""Rollouts and attempts in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from agentlightning.store import RolloutQuery
from agentlightning.store.backend import AttemptRow, RolloutRow
from lightning_plugin_postgres._changes import CHANGED_ATTEMPT, CHANGED_ROLLOUT, NEW_ATTEMPT, NEW_ROLLOUT
from lightning_plugin_postgres._lookups import ATTEMPT, NEWEST, ROLLOUT
from lightning_plugin_postgres._session import Session

_ROLLOUT_COLUMNS: Final = len(RolloutRow.__struct_fields__)
_EXPENDABLE: Final = (
    "SELECT * FROM rollouts WHERE finished_at < %s AND (run_id IS NULL OR run_id <> ALL(%s::text[]))"
    " AND completion < (SELECT max(completion) FROM rollouts WHERE completion IS NOT NULL)"
    " ORDER BY completion LIMIT %s"
)


class PostgresRollouts:
    """Rollouts in a table; the queue and the order of completion are partial indices over it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, rows: Sequence[RolloutRow]) -> None:
        """Adds rows in order, numbering them."""
        for row in rows:
            self._session.write(NEW_ROLLOUT, msgspec.structs.astuple(row)[1:])
            self._session.drop(ROLLOUT, row.id)
            if row.completion is not None:
                self._session.completed(row.completion)

    def get(self, rollout_id: str) -> RolloutRow | None:
        """One row."""
        self._session.expect_completion()  # who writes and asks for one rollout is about to end it
        return self._session.look(ROLLOUT, (rollout_id,)).get(rollout_id)

    def many(self, rollout_ids: Sequence[str]) -> dict[str, RolloutRow]:
        """Those of the rows that exist, by id."""
        return {row.id: row for row in self._session.look(ROLLOUT, rollout_ids, new=True).values()}

    def queued(self, *, limit: int, run_id: str | None) -> list[RolloutRow]:
        """The next to lease."""
        return self._session.queued(limit=limit, run_id=run_id)

    def save(self, row: RolloutRow) -> None:
        """Writes what may change: from `status` on."""
        self._session.write(CHANGED_ROLLOUT, (*row.changing, row.number), key=row.number)
        self._session.put(ROLLOUT, row.id, row)
        if row.completion is not None:
            self._session.completed(row.completion)

    def find(self, query: RolloutQuery, *, limit: int, cursor: int | None) -> list[RolloutRow]:
        """Rows in order of creation, beyond the number `cursor`."""
        where, values = rollout_filter(query)
        if cursor is not None:
            where.append("number < %s" if query.newest_first else "number > %s")
            values.append(cursor)
        rows = self._session.query(
            f"SELECT * FROM rollouts WHERE {' AND '.join(where) or 'TRUE'}"  # noqa: S608 - parts are constants
            f" ORDER BY number {'DESC' if query.newest_first else 'ASC'} LIMIT %s",
            (*values, limit),
        )
        return [RolloutRow(*row) for row in rows]

    def last_completion(self) -> int:
        """The highest completion there is, 0 without any."""
        return self._session.last_completion()

    def completed(self, *, after: int, run_id: str | None, limit: int) -> list[RolloutRow]:
        """Terminal rows in order of completion."""
        of_run, values = ("", ()) if run_id is None else ("run_id = %s AND ", (run_id,))
        rows = self._session.query(
            f"SELECT * FROM rollouts WHERE {of_run}completion > %s ORDER BY completion LIMIT %s",  # noqa: S608 - constants
            (*values, after, limit),
        )
        return [RolloutRow(*row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many rows by status."""
        return dict(self._session.query("SELECT status, count(*) FROM rollouts GROUP BY status"))

    def queue_length(self) -> int:
        """How many rows are queued."""
        return int(self._session.query("SELECT count(*) FROM rollouts WHERE status = 'queued'")[0][0])

    def oldest_queued(self) -> float | None:
        """The earliest `created_at` of what is queued."""
        ((oldest,),) = self._session.query("SELECT min(created_at) FROM rollouts WHERE status = 'queued'")
        return None if oldest is None else float(oldest)

    def expendable(self, *, finished_before: float, keep_runs: Sequence[str], limit: int) -> list[RolloutRow]:
        """Terminal rows that finished before and are of none of the runs, in order of completion."""
        lock = "FOR UPDATE SKIP LOCKED" if self._session.writes else ""
        rows = self._session.query(
            f"{_EXPENDABLE} {lock}",
            (finished_before, list(keep_runs), limit),
        )
        return [RolloutRow(*row) for row in rows]

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        self._session.execute("DELETE FROM rollouts WHERE number = ANY(%s)", (list(numbers),))


class PostgresAttempts:
    """Attempts in a table; when the next one is due is an index over it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids: dict[int, str] = {}

    def add(self, row: AttemptRow) -> None:
        """Adds a row, numbering it."""
        self._session.write(NEW_ATTEMPT, msgspec.structs.astuple(row)[1:])
        self._session.drop(ATTEMPT, row.id)
        self._session.drop(NEWEST, row.rollout_id)

    def get(self, attempt_id: str) -> AttemptRow | None:
        """One row."""
        row = self._session.look(ATTEMPT, (attempt_id,)).get(attempt_id)
        if row is not None:
            self._ids[row.number] = attempt_id
        return row

    def of(self, rollout_id: str) -> list[AttemptRow]:
        """All attempts of a rollout, by sequence."""
        lock = " FOR UPDATE" if self._session.writes else ""
        rows = self._session.query(
            f"SELECT * FROM attempts WHERE rollout_id = %s ORDER BY sequence{lock}",  # noqa: S608 - a constant
            (rollout_id,),
        )
        return [AttemptRow(*row) for row in rows]

    def newest(self, rollout_id: str) -> AttemptRow | None:
        """The newest attempt of a rollout."""
        attempt_id = self._session.look(NEWEST, (rollout_id,)).get(rollout_id)
        return None if attempt_id is None else self.get(attempt_id)

    def save(self, row: AttemptRow) -> None:
        """Writes what may change, from `status` on, without the counts of spans."""
        kept = self.get(row.id) or row
        self._save(msgspec.structs.replace(row, spans=kept.spans, late=kept.late, size_bytes=kept.size_bytes))

    def count(self, number: int, *, spans: int, late: int, size_bytes: int) -> None:
        """Writes the counts of spans and the sum of their sizes."""
        row = self.get(self._ids[number]) if number in self._ids else None
        if row is not None:
            self._save(msgspec.structs.replace(row, spans=spans, late=late, size_bytes=size_bytes))
        else:
            self._session.execute(
                "UPDATE attempts SET spans = %s, late = %s, size_bytes = %s WHERE number = %s",
                (spans, late, size_bytes, number),
            )

    def totals(self) -> tuple[int, int, int]:
        """How many rows, spans and bytes of spans."""
        ((rows, spans, size_bytes),) = self._session.query(
            "SELECT count(*), coalesce(sum(spans), 0), coalesce(sum(size_bytes), 0) FROM attempts"
        )
        return int(rows), int(spans), int(size_bytes)

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        self._session.execute("DELETE FROM attempts WHERE number = ANY(%s)", (list(numbers),))

    def next_due(self) -> float | None:
        """The earliest `due_at`; while writing, of what can be ended in this transaction."""
        return self._session.due_at

    def overdue(self, now: float, *, limit: int) -> list[AttemptRow]:
        """Rows whose `due_at` has come, earliest first, and whose rollouts nobody else has locked."""
        rows = self._session.query(
            "SELECT rollouts.*, attempts.* FROM attempts JOIN rollouts ON rollouts.id = attempts.rollout_id"
            " WHERE due_at <= %s ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED",
            (now, limit),
        )
        attempts = [AttemptRow(*row[_ROLLOUT_COLUMNS:]) for row in rows]
        for row, attempt in zip(rows, attempts, strict=True):
            self._session.learn(ROLLOUT, str(row[1]), RolloutRow(*row[:_ROLLOUT_COLUMNS]))
            self._session.learn(ATTEMPT, attempt.id, attempt)
        if len(rows) < limit:  # what is left is in other hands
            self._session.due_at = None
        return attempts

    def _save(self, row: AttemptRow) -> None:
        self._session.write(
            CHANGED_ATTEMPT,
            (
                row.status,
                row.expires_at,
                row.due_at,
                row.finished_at,
                row.output,
                row.failure,
                row.spans,
                row.late,
                row.size_bytes,
                row.number,
            ),
            key=row.number,
        )
        self._session.put(ATTEMPT, row.id, row)


def rollout_filter(query: RolloutQuery) -> tuple[list[str], list[object]]:
    """Conditions over the columns of `rollouts`, and their values."""
    where: list[str] = []
    values: list[object] = []
    for column, value in (("run_id", query.run_id), ('"group"', query.group), ("mode", query.mode)):
        if value is not None:
            where.append(f"rollouts.{column} = %s")
            values.append(str(value))
    for column, members in (("id", query.ids), ("status", query.statuses)):
        if members is not None:
            where.append(f"rollouts.{column} = ANY(%s)")
            values.append([str(member) for member in members])
    return where, values
