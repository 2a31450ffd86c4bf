"""Spans, rewards, large payloads and idempotency keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agentlightning.store import RewardKey, RewardSummary, RolloutQuery
from agentlightning.store.backend import (
    SEQUENCE_BITS,
    FoundSpan,
    RewardRow,
    SpanRange,
    SpanRow,
    is_filtered,
    summaries,
)
from lightning_plugin_postgres._changes import (
    BLOB_LOCK,
    NEW_BLOB,
    NEW_BLOB_USE,
    NEW_KEY,
    NEW_REWARD,
    NEW_SPAN,
)
from lightning_plugin_postgres._failures import Stale
from lightning_plugin_postgres._lookups import ANSWER, SPAN
from lightning_plugin_postgres._rollout_tables import rollout_filter
from lightning_plugin_postgres._session import Session

_KEYS: Final = {
    RewardKey.DIMENSION: "NULL",
    RewardKey.GROUP: 'rollouts."group"',
    RewardKey.RUN: "rollouts.run_id",
    RewardKey.RESOURCES: "rollouts.resources",
    RewardKey.MODE: "rollouts.mode",
}


class PostgresSpans:
    """Spans clustered by attempt and sequence: their numbers say both."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def known(self, attempt: int, span_ids: Sequence[str]) -> set[str]:
        """Those of the ids that the attempt has."""
        found = self._session.look(SPAN, [(attempt, span_id) for span_id in span_ids])
        return {span_id for span_id in span_ids if (attempt, span_id) in found}

    def add(self, rows: Sequence[SpanRow], *, rewards: Sequence[RewardRow]) -> None:
        """Adds rows."""
        for row in rows:
            self._session.write(NEW_SPAN, msgspec.structs.astuple(row))
            self._session.put(SPAN, (row.attempt, row.span_id), True)
        for reward in rewards:
            self._session.write(NEW_REWARD, msgspec.structs.astuple(reward))

    def numbers(self, *, rollout_ids: Sequence[str] | None, attempt_ids: Sequence[str] | None) -> list[int]:
        """Numbers of the attempts that are in both, ascending."""
        where = [
            (f"{column} = ANY(%s)", list(ids))
            for column, ids in (("rollout_id", rollout_ids), ("id", attempt_ids))
            if ids is not None
        ]
        if not where:
            return []
        rows = self._session.query(
            f"SELECT number FROM attempts WHERE {' AND '.join(part for part, _ in where)} ORDER BY number",  # noqa: S608 - constants
            [ids for _, ids in where],
        )
        return [row[0] for row in rows]

    def find(self, span_range: SpanRange, *, limit: int) -> list[FoundSpan]:
        """Matching spans, by number."""
        where, values = _span_filter(span_range)
        rows = self._session.query(
            f"SELECT number, late, body, blobs FROM spans WHERE {where} ORDER BY number LIMIT %s",  # noqa: S608 - constants
            (*values, limit),
        )
        return [FoundSpan(*row) for row in rows]

    def count(self, span_range: SpanRange) -> int:
        """How many."""
        if not is_filtered(span_range):
            return self._counted(span_range)
        where, values = _span_filter(span_range)
        return int(self._session.query(f"SELECT count(*) FROM spans WHERE {where}", values)[0][0])  # noqa: S608 - constants

    def rewards(self, attempt: int) -> list[RewardRow]:
        """Rewards of an attempt, by number."""
        rows = self._session.query("SELECT * FROM rewards WHERE attempt = %s ORDER BY number", (attempt,))
        return [RewardRow(*row) for row in rows]

    def summarise(self, query: RolloutQuery, *, by: RewardKey) -> list[RewardSummary]:
        """Rewards of the newest successful (else newest) attempts of the matching rollouts, by key and dimension."""
        where, values = rollout_filter(query)
        rows = self._session.query(
            f"WITH counting AS (SELECT DISTINCT ON (rollout_id) attempts.number, {_KEYS[by]} AS key"  # noqa: S608 - constants
            " FROM attempts JOIN rollouts ON rollouts.id = attempts.rollout_id"
            f" WHERE {' AND '.join(where) or 'TRUE'}"
            " ORDER BY rollout_id, attempts.status = 'succeeded' DESC, sequence DESC)"
            " SELECT key, dimension, value FROM rewards JOIN counting ON counting.number = rewards.attempt",
            values,
        )
        return summaries((key, dimension, value) for key, dimension, value in rows)

    def remove(self, attempts: Sequence[int]) -> None:
        """Deletes spans and rewards of attempts."""
        for table in ("spans", "rewards"):
            self._session.execute(f"DELETE FROM {table} WHERE attempt = ANY(%s)", (list(attempts),))  # noqa: S608 - a constant

    def _counted(self, span_range: SpanRange) -> int:
        # the attempts know how many spans they have: no need to touch the large table
        low, high = span_range.low >> SEQUENCE_BITS, (span_range.high - 1) >> SEQUENCE_BITS
        ((spans, late),) = self._session.query(
            "SELECT coalesce(sum(spans), 0), coalesce(sum(late), 0) FROM attempts WHERE number BETWEEN %s AND %s",
            (low, high),
        )
        return int(spans if span_range.include_late else spans - late)


class PostgresKeys:
    """Idempotency keys in a table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def recall(self, key: str) -> tuple[bytes, tuple[str, ...]] | None:
        """The payload's digest and the ids answered under a key."""
        return self._session.look(ANSWER, (key,)).get(key)

    def remember(self, key: str, *, digest: bytes, ids: Sequence[str], now: float) -> None:
        """Keeps what `recall` gives from now on."""
        known = self.recall(key)
        if known is None:
            self._session.write(NEW_KEY, (key, digest, list(ids), now))
        elif not self._session.change(
            "UPDATE keys SET digest = %s, ids = %s, created_at = %s"
            " WHERE key = %s AND digest = %s AND ids = %s::text[]",
            (digest, list(ids), now, key, known[0], list(known[1])),
        ):
            raise Stale(f"another server has answered under the idempotency key {key!r}")
        self._session.put(ANSWER, key, (digest, tuple(ids)))

    def forget(self, before: float) -> None:
        """Deletes what was remembered before a time."""
        self._session.execute("DELETE FROM keys WHERE created_at < %s", (before,))


class PostgresBlobs:
    """Large payloads in a table, and who uses each. Who adds and who deletes keep out of each other's way."""

    def __init__(self, session: Session, *, lock: int) -> None:
        self._session = session
        self._lock = lock

    def add(self, blobs: Mapping[bytes, bytes], *, attempt: int) -> None:
        """Keeps payloads by digest, used by an attempt."""
        self._session.write(BLOB_LOCK, (self._lock,), key="")
        for digest, body in blobs.items():
            self._session.write(NEW_BLOB, (digest, body), key=digest)
            self._session.write(NEW_BLOB_USE, (digest, attempt))

    def many(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Payloads by digest."""
        rows = self._session.query("SELECT digest, body FROM blobs WHERE digest = ANY(%s)", (list(digests),))
        return {bytes(digest): bytes(body) for digest, body in rows}

    def release(self, attempts: Sequence[int]) -> None:
        """These attempts use none any more: deletes what nobody uses."""
        self._session.execute("SELECT pg_advisory_xact_lock(%s)", (self._lock,))
        rows = self._session.query(
            "SELECT DISTINCT digest FROM blob_uses WHERE attempt = ANY(%s)", (list(attempts),)
        )
        self._session.execute("DELETE FROM blob_uses WHERE attempt = ANY(%s)", (list(attempts),))
        self._session.execute(
            "DELETE FROM blobs WHERE digest = ANY(%s)"
            " AND NOT EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.digest = blobs.digest)",
            ([bytes(row[0]) for row in rows],),
        )


def _span_filter(span_range: SpanRange) -> tuple[str, list[object]]:
    where = ["number > %s", "number < %s"]
    values: list[object] = [span_range.low, span_range.high]
    if not span_range.include_late:
        where.append("NOT late")
    for condition, members in (
        ("operation = ANY(%s)", span_range.operations),
        ("name = ANY(%s)", span_range.names),
    ):
        if members is not None:
            where.append(condition)
            values.append(list(members))
    for condition, value in (
        ("agent = %s", span_range.agent),
        ("start_ns >= %s", span_range.since_ns),
        ("start_ns < %s", span_range.until_ns),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    return " AND ".join(where), values
