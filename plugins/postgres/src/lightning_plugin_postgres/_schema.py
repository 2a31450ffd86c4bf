"""The schema of the PostgreSQL backend: numbered migrations with checksums, forward only."""

from __future__ import annotations

import hashlib
from typing import Final

import psycopg

from agentlightning.errors import StoreUnavailable
from lightning_plugin_postgres._address import Address

# `words` is text that sorts as in Python
_V1: Final = """
CREATE TABLE rollouts (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id words NOT NULL UNIQUE, run_id words, "group" words,
    mode words NOT NULL, priority BIGINT NOT NULL, pinned words, created_at DOUBLE PRECISION NOT NULL,
    body BYTEA NOT NULL, config BYTEA NOT NULL, status words NOT NULL, attempts BIGINT NOT NULL, resources words,
    completion BIGINT, finished_at DOUBLE PRECISION, output BYTEA, failure BYTEA
);
CREATE INDEX rollouts_queue ON rollouts (priority DESC, number) WHERE status = 'queued';
CREATE INDEX rollouts_queue_of_run ON rollouts (run_id, priority DESC, number) WHERE status = 'queued';
CREATE UNIQUE INDEX rollouts_completion ON rollouts (completion) WHERE completion IS NOT NULL;
CREATE INDEX rollouts_completion_of_run ON rollouts (run_id, completion)
    WHERE completion IS NOT NULL AND run_id IS NOT NULL;
CREATE INDEX rollouts_run ON rollouts (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX rollouts_group ON rollouts ("group") WHERE "group" IS NOT NULL;
CREATE TABLE attempts (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id words NOT NULL UNIQUE, rollout_id words NOT NULL,
    sequence BIGINT NOT NULL, worker words NOT NULL, token BIGINT NOT NULL, leased_at DOUBLE PRECISION NOT NULL,
    deadline_at DOUBLE PRECISION, status words NOT NULL, expires_at DOUBLE PRECISION NOT NULL,
    due_at DOUBLE PRECISION, finished_at DOUBLE PRECISION, output BYTEA, failure BYTEA, spans BIGINT NOT NULL,
    late BIGINT NOT NULL, size_bytes BIGINT NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX attempts_rollout ON attempts (rollout_id, sequence);
CREATE INDEX attempts_due ON attempts (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE spans (
    number BIGINT PRIMARY KEY, attempt BIGINT NOT NULL, span_id words NOT NULL, operation words NOT NULL,
    agent words, late BOOLEAN NOT NULL, body BYTEA NOT NULL, name words NOT NULL, start_ns BIGINT NOT NULL,
    blobs BYTEA
);
ALTER TABLE spans ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE spans SET (toast_tuple_target = 8160);
CREATE UNIQUE INDEX spans_id ON spans (attempt, span_id);
CREATE TABLE rewards (
    number BIGINT PRIMARY KEY, attempt BIGINT NOT NULL, span_id words NOT NULL, value DOUBLE PRECISION NOT NULL,
    dimension words NOT NULL, target words, source words NOT NULL, reason words
);
CREATE INDEX rewards_attempt ON rewards (attempt);
CREATE TABLE keys (
    key words PRIMARY KEY, digest BYTEA NOT NULL, ids TEXT[] NOT NULL, created_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX keys_created ON keys (created_at);
CREATE TABLE blobs (digest BYTEA PRIMARY KEY, body BYTEA NOT NULL);
ALTER TABLE blobs ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE blob_uses (digest BYTEA NOT NULL, attempt BIGINT NOT NULL, PRIMARY KEY (digest, attempt));
CREATE INDEX blob_uses_attempt ON blob_uses (attempt);
CREATE TABLE resource_sets (
    version BIGINT PRIMARY KEY, id words NOT NULL UNIQUE, parent words, run_id words, step BIGINT,
    created_at DOUBLE PRECISION NOT NULL, body BYTEA NOT NULL, state words NOT NULL, weight DOUBLE PRECISION NOT NULL
);
CREATE INDEX resource_sets_state ON resource_sets (state, version);
CREATE UNIQUE INDEX resource_sets_live ON resource_sets (state) WHERE state = 'live';
CREATE TABLE runs (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id words NOT NULL UNIQUE, body BYTEA NOT NULL,
    stop BOOLEAN NOT NULL
);
CREATE TABLE metrics (
    run_id words NOT NULL, name words NOT NULL, step BIGINT NOT NULL, value DOUBLE PRECISION NOT NULL,
    time DOUBLE PRECISION NOT NULL, PRIMARY KEY (run_id, name, step)
);
CREATE TABLE run_events (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id words NOT NULL, body BYTEA NOT NULL
);
CREATE INDEX run_events_run ON run_events (run_id, number);
CREATE TABLE commits (id BIGINT PRIMARY KEY, at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp());
""".replace(" words", ' TEXT COLLATE "C"')

MIGRATIONS: Final = (_V1,)
"""Statements that lead from each version to the next; once released, one never changes."""

_LEDGER: Final = "CREATE TABLE agl_migrations (version INTEGER PRIMARY KEY, checksum TEXT NOT NULL)"


def migrate(connection: psycopg.Connection[tuple[object, ...]], address: Address) -> None:
    """Brings the schema up to date, in one transaction, while no other server does.

    Raises:
        StoreUnavailable: It is newer than this version, somebody else's, or was tampered with.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(address, "migration"),))
        version = _version(connection, address)
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            connection.execute(statements.encode(), prepare=False)
            connection.execute("INSERT INTO agl_migrations VALUES (%s, %s)", (number, _checksum(statements)))


def lock_key(address: Address, name: str) -> int:
    """The number of an advisory lock of one store; those of other schemas and programs have others."""
    drawn = hashlib.blake2b(f"agentlightning/{address.schema}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big", signed=True)


def _version(connection: psycopg.Connection[tuple[object, ...]], address: Address) -> int:
    tables = _tables(connection, address.schema)
    if tables is None:
        connection.execute(f'CREATE SCHEMA "{address.schema}"')  # letters, digits and '_' alone
    if not tables:
        connection.execute(_LEDGER)
        return 0
    if "agl_migrations" not in tables:
        raise StoreUnavailable(
            f"store {address.shown!r}: the schema {address.schema!r} belongs to another program (it has a table"
            f" {min(tables)!r}); name another one with ?schema=NAME"
        )
    applied = [
        (int(str(row[0])), str(row[1]))
        for row in connection.execute("SELECT version, checksum FROM agl_migrations ORDER BY version")
    ]
    if len(applied) > len(MIGRATIONS):
        raise StoreUnavailable(
            f"store {address.shown!r} has schema version {len(applied)}, this plugin knows up to {len(MIGRATIONS)};"
            " upgrade lightning-plugin-postgres, or name another schema"
        )
    for (number, checksum), statements in zip(applied, MIGRATIONS, strict=False):
        if checksum != _checksum(statements):
            raise StoreUnavailable(
                f"store {address.shown!r} was made by another migration {number} ({checksum!r}) than this version"
                " has; open it with the version that made it, or name another schema"
            )
    return len(applied)


def _tables(connection: psycopg.Connection[tuple[object, ...]], schema: str) -> set[str] | None:
    """The tables of a schema; None where there is no such schema."""
    there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    if there is None:
        return None
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,))
    return {str(row[0]) for row in rows}


def _checksum(statements: str) -> str:
    return hashlib.sha256(statements.encode()).hexdigest()[:16]
