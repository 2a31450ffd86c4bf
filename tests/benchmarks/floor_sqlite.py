"""What SQLite can do at all: ready bytes inserted, and a queue as one would write it by hand. Runs as a `Worker`."""

from __future__ import annotations

import json
import secrets
import sqlite3
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from answering import Stopwatch, serve
from workload import SPANS_OF, llm_attributes, task

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60.0
LEASE_S = 30.0
QUEUE = (
    """CREATE TABLE rollouts (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, task TEXT, status TEXT, worker TEXT, expires REAL,
        finished REAL
    )""",
    "CREATE INDEX rollouts_queue ON rollouts (number) WHERE status = 'queued'",
    "CREATE INDEX rollouts_expiry ON rollouts (expires) WHERE status = 'running'",
)


def spans(*, batch: int, count: int) -> dict[str, float]:
    """Inserts `count` packed spans, one transaction a batch."""
    bodies = [msgspec.msgpack.encode(llm_attributes(index)) for index in range(64)]
    rows = [
        (f"attempt-{index // batch % SPANS_OF}", index, bodies[index % 64])
        for index in range(count // batch * batch)
    ]
    with _file() as path:
        database = _open(path)
        database.execute(
            "CREATE TABLE spans (attempt TEXT, number INTEGER, body BLOB, PRIMARY KEY (attempt, number)) WITHOUT ROWID"
        )
        watch = Stopwatch()
        for start in range(0, len(rows), batch):
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO spans VALUES (?, ?, ?)", rows[start : start + batch])
            database.execute("COMMIT")
        taken = watch.per(len(rows))
        (kept,) = database.execute("SELECT count(*) FROM spans").fetchone()
        database.close()
    if kept != len(rows):
        raise AssertionError(f"{kept} spans were kept of {len(rows)}")
    return taken


def cycles(*, workers: int, count: int) -> dict[str, float]:
    """Enqueues, leases, heartbeats and finishes `count` rollouts, each step a transaction; a thread a worker."""
    with _file() as path:
        database = _open(path)
        for statement in QUEUE:
            database.execute(statement)
        threads = [
            threading.Thread(target=_work, args=(path, f"worker-{index}", count // workers))
            for index in range(workers)
        ]
        watch = Stopwatch()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = count // workers * workers
        taken = watch.per(total)
        (done,) = database.execute("SELECT count(*) FROM rollouts WHERE status = 'succeeded'").fetchone()
        database.close()
    if done != total:
        raise AssertionError(f"{done} rollouts succeeded of {total}")
    return taken


def _work(path: Path, worker: str, count: int) -> None:
    database = _open(path)
    execute = database.execute
    for index in range(count):
        name = secrets.token_hex(8)
        execute("BEGIN IMMEDIATE")
        execute(
            "INSERT INTO rollouts (id, task, status) VALUES (?, ?, 'queued')", (name, json.dumps(task(index)))
        )
        execute("COMMIT")
        execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE rollouts SET status = 'queued', worker = NULL WHERE status = 'running' AND expires < ?",
            (time.time(),),
        )
        leased, body = execute(
            "SELECT id, task FROM rollouts WHERE status = 'queued' ORDER BY number LIMIT 1"
        ).fetchone()
        execute(
            "UPDATE rollouts SET status = 'running', worker = ?, expires = ? WHERE id = ?",
            (worker, time.time() + LEASE_S, leased),
        )
        execute("COMMIT")
        json.loads(body)
        execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE rollouts SET expires = ? WHERE id = ? AND worker = ? AND status = 'running'",
            (time.time() + LEASE_S, leased, worker),
        )
        execute("COMMIT")
        execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE rollouts SET status = 'succeeded', finished = ? WHERE id = ? AND worker = ? AND status = 'running'",
            (time.time(), leased, worker),
        )
        execute("COMMIT")
    database.close()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    return database


@contextmanager
def _file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder:
        yield Path(folder) / "floor.db"


if __name__ == "__main__":
    serve({"spans": spans, "cycles": cycles})
