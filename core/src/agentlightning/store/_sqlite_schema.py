"""The schema of the SQLite backend: numbered migrations with checksums, forward only."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from agentlightning.errors import StoreUnavailable
from agentlightning.store._sqlite_backup import back_up

_V1: Final = """
CREATE TABLE rollouts (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, run_id TEXT, "group" TEXT, mode TEXT NOT NULL,
    priority INTEGER NOT NULL, pinned TEXT, created_at REAL NOT NULL, body BLOB NOT NULL, config BLOB NOT NULL,
    status TEXT NOT NULL, attempts INTEGER NOT NULL, resources TEXT, completion INTEGER, finished_at REAL,
    output BLOB, failure BLOB
);
CREATE INDEX rollouts_queue ON rollouts (priority DESC, number) WHERE status = 'queued';
CREATE INDEX rollouts_queue_of_run ON rollouts (run_id, priority DESC, number) WHERE status = 'queued';
CREATE UNIQUE INDEX rollouts_completion ON rollouts (completion) WHERE completion IS NOT NULL;
CREATE INDEX rollouts_completion_of_run ON rollouts (run_id, completion) WHERE completion IS NOT NULL;
CREATE INDEX rollouts_run ON rollouts (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX rollouts_group ON rollouts ("group") WHERE "group" IS NOT NULL;
CREATE TABLE idempotency_keys (key TEXT PRIMARY KEY, digest BLOB NOT NULL, rollout_ids TEXT NOT NULL);
CREATE TABLE attempts (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, rollout_id TEXT NOT NULL, sequence INTEGER NOT NULL,
    worker TEXT NOT NULL, token INTEGER NOT NULL, leased_at REAL NOT NULL, deadline_at REAL, status TEXT NOT NULL,
    expires_at REAL NOT NULL, due_at REAL, finished_at REAL, output BLOB, failure BLOB, spans INTEGER NOT NULL,
    late INTEGER NOT NULL
);
CREATE UNIQUE INDEX attempts_rollout ON attempts (rollout_id, sequence);
CREATE INDEX attempts_due ON attempts (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE spans (
    number INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, span_id TEXT NOT NULL, operation TEXT NOT NULL,
    agent TEXT, late INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX spans_id ON spans (attempt, span_id);
CREATE TABLE rewards (
    number INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, span_id TEXT NOT NULL, value REAL NOT NULL,
    dimension TEXT NOT NULL, target TEXT, source TEXT NOT NULL, reason TEXT
);
CREATE TABLE resource_sets (
    version INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, parent TEXT, run_id TEXT, step INTEGER,
    created_at REAL NOT NULL, body BLOB NOT NULL, state TEXT NOT NULL, weight REAL NOT NULL
);
CREATE INDEX resource_sets_state ON resource_sets (state);
CREATE TABLE runs (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL, stop INTEGER NOT NULL);
CREATE TABLE metrics (
    run_id TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, value REAL NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (run_id, name, step)
) WITHOUT ROWID;
CREATE TABLE run_events (number INTEGER PRIMARY KEY, run_id TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX run_events_run ON run_events (run_id);
"""

_V2: Final = """
ALTER TABLE attempts ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spans ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE spans ADD COLUMN start_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spans ADD COLUMN blobs BLOB;
UPDATE spans SET name = agl_span_name(body), start_ns = agl_span_start(body);
UPDATE attempts SET size_bytes = (
    SELECT coalesce(sum(length(body)), 0) FROM spans
    WHERE spans.number > attempts.number << 32 AND spans.number < attempts.number + 1 << 32
);
CREATE TABLE blobs (digest BLOB PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE blob_uses (attempt INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (attempt, digest)) WITHOUT ROWID;
CREATE INDEX blob_uses_digest ON blob_uses (digest);
CREATE TABLE keys (
    key TEXT PRIMARY KEY, digest BLOB NOT NULL, ids TEXT NOT NULL, created_at REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO keys SELECT key, digest, rollout_ids, strftime('%s', 'now') FROM idempotency_keys;
DROP TABLE idempotency_keys;
CREATE INDEX keys_created ON keys (created_at);
DROP INDEX rollouts_queue_of_run;
CREATE INDEX rollouts_queue_of_run ON rollouts (run_id, priority DESC, number)
    WHERE status = 'queued' AND run_id IS NOT NULL;
DROP INDEX rollouts_completion_of_run;
CREATE INDEX rollouts_completion_of_run ON rollouts (run_id, completion)
    WHERE completion IS NOT NULL AND run_id IS NOT NULL;
"""

MIGRATIONS: Final = (_V1, _V2)
"""Statements that lead from each version to the next; once released, one never changes."""

_LEDGER: Final = "CREATE TABLE agl_migrations (version INTEGER PRIMARY KEY, checksum TEXT NOT NULL)"


def migrate(connection: sqlite3.Connection, *, path: Path) -> None:
    """Brings a file's schema up to date, inside the caller's transaction; an older file is copied aside first.

    Raises:
        StoreUnavailable: The file is newer than this version, somebody else's, or its schema was tampered with.
    """
    version = _version(connection, path=str(path))
    if 0 < version < len(MIGRATIONS):
        back_up(path, version=version)
    connection.create_function("agl_span_name", 1, _span_name, deterministic=True)
    connection.create_function("agl_span_start", 1, _span_start, deterministic=True)
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in statements.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO agl_migrations VALUES (?, ?)", (number, _checksum(statements)))


def _version(connection: sqlite3.Connection, *, path: str) -> int:
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        connection.execute(_LEDGER)
        return 0
    if "agl_migrations" not in tables:
        raise StoreUnavailable(
            f"{path!r} is a SQLite database of another program (it has a table {min(tables)!r}); name another file"
        )
    applied = connection.execute("SELECT version, checksum FROM agl_migrations ORDER BY version").fetchall()
    if len(applied) > len(MIGRATIONS):
        raise StoreUnavailable(
            f"{path!r} has schema version {len(applied)}, this agentlightning knows up to {len(MIGRATIONS)};"
            " upgrade agentlightning-core, or name another file"
        )
    for (number, checksum), statements in zip(applied, MIGRATIONS, strict=False):
        if checksum != _checksum(statements):
            raise StoreUnavailable(
                f"{path!r} was made by another migration {number} ({checksum!r}) than this version has;"
                " open it with the version that made it, or name another file"
            )
    return len(applied)


class _Head(msgspec.Struct):
    name: str
    start_ns: int


def _span_name(body: bytes) -> str:
    return msgspec.msgpack.decode(body, type=_Head).name


def _span_start(body: bytes) -> int:
    return msgspec.msgpack.decode(body, type=_Head).start_ns


def _checksum(statements: str) -> str:
    return hashlib.sha256(statements.encode()).hexdigest()[:16]
