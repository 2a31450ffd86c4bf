"""The writer: one thread that commits what waits in its queue together, and watches the file while idle."""

from __future__ import annotations

import queue
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agentlightning.store._executor import FORGET_INTERVAL_S, SWEEP_INTERVAL_S, forget_keys
from agentlightning.store._jobs import Job, deliver
from agentlightning.store._notifier import Notifier
from agentlightning.store._rollout_operations import sweep
from agentlightning.store._sqlite_errors import primary_code, unavailable
from agentlightning.store._sqlite_file import patiently
from agentlightning.store._sqlite_tables import SqliteTables
from agentlightning.store._unit import Changes, Unit

_MOST_JOBS: Final = 512  # in one transaction
_WATCH_INTERVAL_S: Final = 0.012  # while somebody waits: other processes cannot notify


class Writer:
    """Runs jobs in transactions: drain the queue, one savepoint per job, one commit, then acknowledge all."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        notifier: Notifier,
        *,
        path: Path,
        patience_s: float,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._connection = connection
        self._tables = SqliteTables(connection)
        self._notifier = notifier
        self._path = path
        self._patience_s = patience_s
        self._clock = clock
        self._new_id = new_id
        self._seen = 0
        self._watch_at = 0.0
        self._forget_at = 0.0

    def run(self) -> None:
        """Works until None comes through the queue, then closes the file."""
        stopping = False
        while not stopping:
            jobs, stopping = self._next()
            if jobs:
                self._finish(jobs)
            if time.monotonic() >= self._watch_at:
                self._watch()
        self._connection.close()

    def _next(self) -> tuple[list[Job], bool]:
        jobs: list[Job] = []
        try:
            job = self.jobs.get(timeout=max(self._watch_at - time.monotonic(), 0.0))
            while job is not None:
                if not job.future.cancelled():
                    jobs.append(job)
                if len(jobs) == _MOST_JOBS:
                    return jobs, False
                job = self.jobs.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True

    def _finish(self, jobs: Sequence[Job]) -> None:
        error = self._transact(jobs)
        if error is not None and len(jobs) > 1 and primary_code(error) != sqlite3.SQLITE_BUSY:
            for job in jobs:  # one of them asked for too much: the others need not share its fate
                self._settle([job], self._transact([job]))
        else:
            self._settle(jobs, error)
        deliver(jobs)

    def _settle(self, jobs: Sequence[Job], error: sqlite3.Error | None) -> None:
        if error is not None:
            for job in jobs:
                job.error = unavailable(error, path=str(self._path))

    def _transact(self, jobs: Sequence[Job]) -> sqlite3.Error | None:
        execute = self._connection.execute
        try:
            patiently(self._connection, "BEGIN IMMEDIATE", patience_s=self._patience_s)
            now = self._clock()
            swept = Unit(self._tables, now, self._new_id)
            count = sweep(swept)
            if time.monotonic() >= self._forget_at:
                forget_keys(swept)
                self._forget_at = time.monotonic() + FORGET_INTERVAL_S
            changes = swept.changes
            for job in jobs:
                unit = Unit(self._tables, now, self._new_id, count)
                changes.add(self._run_alone(job, unit) if len(jobs) == 1 else self._run(job, unit))
            if not self._connection.in_transaction:  # a job that was alone failed, and took all with it
                return None
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread that all wait for must live on
            if self._connection.in_transaction:
                execute("ROLLBACK")
            for job in jobs:
                job.error = error
            return None
        self._notifier.notify(changes)
        return None

    def _run_alone(self, job: Job, unit: Unit) -> Changes:
        """Runs the only job of a transaction, which ends with it if it fails."""
        job.error = None
        try:
            job.result = job.operation(unit)
        except sqlite3.Error:
            raise  # the medium failed
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            job.error = error
            self._connection.execute("ROLLBACK")
        return unit.changes

    def _run(self, job: Job, unit: Unit) -> Changes:
        self._connection.execute("SAVEPOINT job")
        job.error = None
        try:
            job.result = job.operation(unit)
        except sqlite3.Error:
            raise  # the medium failed: nothing of the transaction is kept
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            job.error = error
            unit.changes.clear()
            self._connection.execute("ROLLBACK TO job")
        self._connection.execute("RELEASE job")
        return unit.changes

    def _watch(self) -> None:
        """Looks for what other processes did, and for attempts that are overdue."""
        try:
            seen = self._connection.execute("PRAGMA data_version").fetchone()[0]
            due_at = self._tables.attempts.next_due()
        except sqlite3.Error:  # nobody asked; whoever asks next is told
            seen, due_at = self._seen, None
        if seen != self._seen:
            self._seen = seen
            self._notifier.notify_all()
        if due_at is not None and due_at <= self._clock():
            self._transact(())
        interval_s = _WATCH_INTERVAL_S if self._notifier.has_waiters() else SWEEP_INTERVAL_S
        self._watch_at = time.monotonic() + interval_s * random.uniform(0.75, 1.25)
