"""A queue on PostgreSQL as one would write it by hand, with SKIP LOCKED. Runs as a `Worker`."""

from __future__ import annotations

import json
import secrets
import threading

import psycopg
from answering import Stopwatch, serve
from workload import task


def cycles(*, url: str, schema: str, workers: int, count: int) -> dict[str, float]:
    """Enqueues, leases, heartbeats and finishes `count` rollouts, each step a transaction; a thread a worker."""
    with psycopg.connect(url, autocommit=True) as database:
        database.execute(f"CREATE SCHEMA {schema}")
        database.execute(
            f"CREATE TABLE {schema}.rollouts (number bigserial PRIMARY KEY, id text NOT NULL UNIQUE, task text,"
            " status text, worker text, expires timestamptz, finished timestamptz)"
        )
        database.execute(f"CREATE INDEX ON {schema}.rollouts (number) WHERE status = 'queued'")
        database.execute(f"CREATE INDEX ON {schema}.rollouts (expires) WHERE status = 'running'")
        connections = [psycopg.connect(url, autocommit=True) for _ in range(workers)]
        threads = [
            threading.Thread(target=_work, args=(connection, schema, f"worker-{index}", count // workers))
            for index, connection in enumerate(connections)
        ]
        watch = Stopwatch()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = count // workers * workers
        taken = watch.per(total)
        for connection in connections:
            connection.close()
        found = database.execute(
            f"SELECT count(*) FROM {schema}.rollouts WHERE status = 'succeeded'"
        ).fetchone()
    if found != (total,):
        raise AssertionError(f"{found} rollouts succeeded of {total}")
    return taken


def _work(database: psycopg.Connection[tuple[object, ...]], schema: str, worker: str, count: int) -> None:
    table = f"{schema}.rollouts"
    for index in range(count):
        database.execute(
            f"INSERT INTO {table} (id, task, status) VALUES (%s, %s, 'queued')",
            (secrets.token_hex(8), json.dumps(task(index))),
        )
        database.execute(
            f"UPDATE {table} SET status = 'queued', worker = NULL WHERE number IN (SELECT number FROM {table}"
            " WHERE status = 'running' AND expires < now() FOR UPDATE SKIP LOCKED)"
        )
        leased = None
        while leased is None:  # it finds nothing, too, when another worker is faster
            leased = database.execute(
                f"UPDATE {table} SET status = 'running', worker = %s, expires = now() + interval '30 s' WHERE number ="
                f" (SELECT number FROM {table} WHERE status = 'queued' ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED)"
                " RETURNING id, task",
                (worker,),
            ).fetchone()
        name, body = leased
        json.loads(str(body))
        database.execute(
            f"UPDATE {table} SET expires = now() + interval '30 s'"
            " WHERE id = %s AND worker = %s AND status = 'running'",
            (name, worker),
        )
        database.execute(
            f"UPDATE {table} SET status = 'succeeded', finished = now()"
            " WHERE id = %s AND worker = %s AND status = 'running'",
            (name, worker),
        )


if __name__ == "__main__":
    serve({"cycles": cycles})
