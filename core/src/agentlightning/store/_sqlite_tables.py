"""Spans, resource sets and runs in SQLite, and all SQLite tables together."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agentlightning.store._queries import RolloutQuery
from agentlightning.store._records import RewardKey, RewardSummary
from agentlightning.store._rows import (
    SEQUENCE_BITS,
    FoundSpan,
    ResourceRow,
    RewardRow,
    RunRow,
    SpanRange,
    SpanRow,
    is_filtered,
)
from agentlightning.store._sqlite_rollouts import SqliteAttempts, SqliteRollouts, json_list, rollout_filter
from agentlightning.store._summaries import summaries
from agentlightning.types import MetricPoint

_SPAN: Final = "INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REWARD: Final = "INSERT INTO rewards VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SPAN_FILTER: Final = (
    " FROM spans WHERE number > ?1 AND number < ?2 AND (?3 OR late = 0)"
    " AND (?4 IS NULL OR operation IN (SELECT value FROM json_each(?4))) AND (?5 IS NULL OR agent = ?5)"
    " AND (?6 IS NULL OR name IN (SELECT value FROM json_each(?6))) AND (?7 IS NULL OR start_ns >= ?7)"
    " AND (?8 IS NULL OR start_ns < ?8)"
)
_KEYS: Final = {
    RewardKey.DIMENSION: "NULL",
    RewardKey.GROUP: 'rollouts."group"',
    RewardKey.RUN: "rollouts.run_id",
    RewardKey.RESOURCES: "rollouts.resources",
    RewardKey.MODE: "rollouts.mode",
}


class SqliteSpans:
    """Spans clustered by attempt and sequence: the row id is the span's number."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    def known(self, attempt: int, span_ids: Sequence[str]) -> set[str]:
        """Those of the ids that the attempt has."""
        rows = self._execute(
            "SELECT span_id FROM spans WHERE attempt = ? AND span_id IN (SELECT value FROM json_each(?))",
            (attempt, json_list(span_ids)),
        )
        return {row[0] for row in rows}

    def add(self, rows: Sequence[SpanRow], *, rewards: Sequence[RewardRow]) -> None:
        """Adds rows."""
        self._connection.executemany(_SPAN, map(msgspec.structs.astuple, rows))
        if rewards:
            self._connection.executemany(_REWARD, map(msgspec.structs.astuple, rewards))

    def numbers(self, *, rollout_ids: Sequence[str] | None, attempt_ids: Sequence[str] | None) -> list[int]:
        """Numbers of the attempts that are in both, ascending."""
        named: set[int] | None = None
        for column, ids in (("rollout_id", rollout_ids), ("id", attempt_ids)):
            if ids is not None:
                statement = f"SELECT number FROM attempts WHERE {column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - two constants
                numbers = {row[0] for row in self._execute(statement, (json_list(ids),))}
                named = numbers if named is None else named & numbers
        return sorted(named or ())

    def find(self, span_range: SpanRange, *, limit: int) -> list[FoundSpan]:
        """Matching spans, by number."""
        statement = "SELECT number, late, body, blobs" + _SPAN_FILTER + " ORDER BY number LIMIT ?9"
        return [FoundSpan(*row) for row in self._execute(statement, (*_filter_values(span_range), limit))]

    def count(self, span_range: SpanRange) -> int:
        """How many."""
        if not is_filtered(span_range):
            return self._counted(span_range)
        return int(self._execute("SELECT count(*)" + _SPAN_FILTER, _filter_values(span_range)).fetchone()[0])

    def rewards(self, attempt: int) -> list[RewardRow]:
        """Rewards of an attempt, by number."""
        rows = self._execute(
            "SELECT * FROM rewards WHERE number > ? AND number < ? ORDER BY number",
            (attempt << SEQUENCE_BITS, (attempt + 1) << SEQUENCE_BITS),
        )
        return [RewardRow(*row) for row in rows]

    def summarise(self, query: RolloutQuery, *, by: RewardKey) -> list[RewardSummary]:
        """Rewards of the newest successful (else newest) attempts of the matching rollouts, by key and dimension."""
        where, values = rollout_filter(query)
        rows = self._execute(
            f"SELECT {_KEYS[by]}, rewards.dimension, rewards.value FROM rewards"  # noqa: S608 - constants
            " JOIN attempts ON attempts.number = rewards.attempt JOIN rollouts ON rollouts.id = attempts.rollout_id"
            " WHERE attempts.number = (SELECT number FROM attempts AS other WHERE other.rollout_id = rollouts.id"
            " ORDER BY other.status = 'succeeded' DESC, other.sequence DESC LIMIT 1)"
            f" AND {' AND '.join(where) or 'TRUE'}",
            values,
        )
        return summaries(rows)

    def remove(self, attempts: Sequence[int]) -> None:
        """Deletes spans and rewards of attempts."""
        ranges = [(attempt << SEQUENCE_BITS, (attempt + 1) << SEQUENCE_BITS) for attempt in attempts]
        for table in ("spans", "rewards"):
            self._connection.executemany(f"DELETE FROM {table} WHERE number > ? AND number < ?", ranges)  # noqa: S608 - a constant

    def _counted(self, span_range: SpanRange) -> int:
        # the attempts know how many spans they have: no need to touch the large table
        low, high = span_range.low >> SEQUENCE_BITS, (span_range.high - 1) >> SEQUENCE_BITS
        row = self._execute(
            "SELECT coalesce(sum(spans), 0), coalesce(sum(late), 0) FROM attempts WHERE number BETWEEN ? AND ?",
            (low, high),
        ).fetchone()
        return int(row[0] if span_range.include_late else row[0] - row[1])


class SqliteKeys:
    """Idempotency keys in a table."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def recall(self, key: str) -> tuple[bytes, tuple[str, ...]] | None:
        """The payload's digest and the ids answered under a key."""
        row = self._execute("SELECT digest, ids FROM keys WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], msgspec.json.decode(row[1], type=tuple[str, ...]))

    def remember(self, key: str, *, digest: bytes, ids: Sequence[str], now: float) -> None:
        """Keeps what `recall` gives."""
        self._execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", (key, digest, json_list(ids), now))

    def forget(self, before: float) -> None:
        """Deletes what was remembered before a time."""
        self._execute("DELETE FROM keys WHERE created_at < ?", (before,))


class SqliteBlobs:
    """Large payloads in a table, and who uses each."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, blobs: Mapping[bytes, bytes], *, attempt: int) -> None:
        """Keeps payloads by digest, used by an attempt."""
        self._connection.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?)", blobs.items())
        self._connection.executemany(
            "INSERT OR IGNORE INTO blob_uses VALUES (?, ?)", [(attempt, digest) for digest in blobs]
        )

    def many(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Payloads by digest."""
        execute = self._connection.execute
        rows = (execute("SELECT digest, body FROM blobs WHERE digest = ?", (one,)) for one in set(digests))
        return dict(row for cursor in rows for row in cursor)

    def release(self, attempts: Sequence[int]) -> None:
        """These attempts use none any more: deletes what nobody uses."""
        execute = self._connection.execute
        names = json_list([str(attempt) for attempt in attempts])
        mine = "attempt IN (SELECT CAST(value AS INTEGER) FROM json_each(?))"
        digests = execute(f"SELECT DISTINCT digest FROM blob_uses WHERE {mine}", (names,)).fetchall()  # noqa: S608 - a constant
        execute(f"DELETE FROM blob_uses WHERE {mine}", (names,))  # noqa: S608 - a constant
        self._connection.executemany(
            "DELETE FROM blobs WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM blob_uses WHERE digest = ?1)",
            digests,
        )


class SqliteResources:
    """Resource sets in a table."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def add(self, row: ResourceRow) -> None:
        """Adds a row."""
        self._execute(
            "INSERT INTO resource_sets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(row)
        )

    def get(self, set_id: str) -> ResourceRow | None:
        """One row."""
        row = self._execute("SELECT * FROM resource_sets WHERE id = ?", (set_id,)).fetchone()
        return None if row is None else ResourceRow(*row)

    def in_state(self, state: str) -> list[ResourceRow]:
        """Rows in a state, by version."""
        rows = self._execute("SELECT * FROM resource_sets WHERE state = ? ORDER BY version", (state,))
        return [ResourceRow(*row) for row in rows]

    def newest(self, *, run_id: str | None, limit: int) -> list[ResourceRow]:
        """Rows by falling version."""
        rows = self._execute(
            "SELECT * FROM resource_sets WHERE (?1 IS NULL OR run_id = ?1) ORDER BY version DESC LIMIT ?2",
            (run_id, limit),
        )
        return [ResourceRow(*row) for row in rows]

    def save(self, row: ResourceRow) -> None:
        """Writes state and weight."""
        self._execute(
            "UPDATE resource_sets SET state = ?, weight = ? WHERE version = ?",
            (row.state, row.weight, row.version),
        )

    def total(self) -> int:
        """How many rows."""
        return int(self._execute("SELECT count(*) FROM resource_sets").fetchone()[0])


class SqliteRuns:
    """Runs, metric points and events in tables."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    def add(self, row: RunRow) -> None:
        """Adds a row, numbering it."""
        self._execute("INSERT INTO runs VALUES (NULL, ?, ?, ?)", (row.id, row.body, row.stop))

    def get(self, run_id: str) -> RunRow | None:
        """One row."""
        row = self._execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
        return None if row is None else _run_row(row)

    def newest(self, limit: int) -> list[RunRow]:
        """Rows by falling number."""
        return [
            _run_row(row)
            for row in self._execute("SELECT * FROM runs ORDER BY number DESC LIMIT ?", (limit,))
        ]

    def save(self, row: RunRow) -> None:
        """Writes body and stop."""
        self._execute("UPDATE runs SET body = ?, stop = ? WHERE id = ?", (row.body, row.stop, row.id))

    def total(self) -> int:
        """How many rows."""
        return int(self._execute("SELECT count(*) FROM runs").fetchone()[0])

    def log(self, run_id: str, *, points: Sequence[MetricPoint], events: Sequence[bytes]) -> None:
        """Adds points (replacing those of the same name and step) and packed events."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?)",
            [(run_id, *msgspec.structs.astuple(point)) for point in points],
        )
        self._connection.executemany(
            "INSERT INTO run_events VALUES (NULL, ?, ?)", [(run_id, event) for event in events]
        )

    def points(self, run_id: str, names: Sequence[str] | None) -> list[MetricPoint]:
        """Points by name, then by step."""
        rows = self._execute(
            "SELECT name, step, value, time FROM metrics WHERE run_id = ?1"
            " AND (?2 IS NULL OR name IN (SELECT value FROM json_each(?2))) ORDER BY name, step",
            (run_id, None if names is None else json_list(names)),
        )
        return [MetricPoint(name=name, step=step, value=value, time=time) for name, step, value, time in rows]

    def events(self, run_id: str) -> list[bytes]:
        """Packed events in order."""
        rows = self._execute("SELECT body FROM run_events WHERE run_id = ? ORDER BY number", (run_id,))
        return [row[0] for row in rows]


class SqliteTables:
    """All tables, over one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.rollouts = SqliteRollouts(connection)
        self.keys = SqliteKeys(connection)
        self.blobs = SqliteBlobs(connection)
        self.attempts = SqliteAttempts(connection)
        self.spans = SqliteSpans(connection)
        self.resources = SqliteResources(connection)
        self.runs = SqliteRuns(connection)


def _run_row(row: tuple[int, str, bytes, int]) -> RunRow:
    number, run_id, body, stop = row
    return RunRow(number, run_id, body, bool(stop))


def _filter_values(span_range: SpanRange) -> tuple[object, ...]:
    return (
        span_range.low,
        span_range.high,
        span_range.include_late,
        None if span_range.operations is None else json_list(span_range.operations),
        span_range.agent,
        None if span_range.names is None else json_list(span_range.names),
        span_range.since_ns,
        span_range.until_ns,
    )
