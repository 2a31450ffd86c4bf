"""The writer: a thread that commits what waits in its queue together, and watches the file while idle.

A write that is alone can do without the thread: see `Writer.run_here`.
"""

from __future__ import annotations

import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from agentlightning.store._executor import FORGET_INTERVAL_S, SWEEP_INTERVAL_S, forget_keys
from agentlightning.store._jobs import Job, Work, deliver
from agentlightning.store._notifier import Notifier
from agentlightning.store._rollout_operations import sweep
from agentlightning.store._sqlite_errors import primary_code, unavailable
from agentlightning.store._sqlite_file import Durability, patiently
from agentlightning.store._sqlite_tables import SqliteTables
from agentlightning.store._unit import Changes, Operation, Unit

_MOST_JOBS: Final = 512  # in one transaction
_WATCH_INTERVAL_S: Final = 0.012  # while somebody waits: other processes cannot notify
_LOG_BYTES: Final = 16 * 2**20  # of the write-ahead log, before it is folded into the file
_CROWD_S: Final = 0.0001  # between writes of two tasks
_COMMITS_HERE: Final = 64  # outside the thread, before it is asked to look at the log


class Order(Enum):
    """What the thread can be told to do."""

    STOP = "stop"
    LOOK = "look"


class Writer:
    """Runs jobs in transactions: drain the queue, one savepoint per job, one commit, then acknowledge all."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        notifier: Notifier,
        *,
        path: Path,
        durability: Durability,
        patience_s: float,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.jobs: queue.SimpleQueue[Job | Order] = queue.SimpleQueue()
        self._connection = connection
        self._using = threading.Lock()
        self._never_here = durability == "full"  # which waits for the disk at each commit
        self._crowded = self._never_here
        self._guest: object = None
        self._guest_left_at = 0.0
        self._commits_here = 0
        self._log = path.with_name(path.name + "-wal")
        self._fold_at = _LOG_BYTES
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
        """The thread: works until it is told to stop, then closes the file."""
        stopping = False
        while not stopping:
            jobs, stopping = self._next()
            if jobs:
                with self._using:
                    self._finish(jobs)
                deliver(jobs)  # only now: who is woken may find the file free
            self._fold()
            if time.monotonic() >= self._watch_at:
                with self._using:
                    self._watch()
        with self._using:
            self._connection.close()

    def run_here(self, operation: Operation[object], *, caller: object) -> Work | None:
        """Runs and commits an operation in this thread, which is not the writer's, at once.

        Args:
            operation: What to do.
            caller: Who wants it. Two that come right after one another are a crowd, which the thread serves better.

        Returns:
            What was done; None if nothing was, because the file is in use: then it is a job for the thread.
        """
        if caller is not self._guest and time.monotonic() - self._guest_left_at < _CROWD_S:
            self._crowded = True
        if self._crowded or not self.jobs.empty() or not self._using.acquire(blocking=False):
            return None
        try:
            work = Work(operation)
            error = self._transact([work], patience_s=0.0)
        finally:
            self._using.release()
        if error is not None and primary_code(error) == sqlite3.SQLITE_BUSY:
            return None
        self._settle([work], error)
        self._guest, self._guest_left_at = caller, time.monotonic()
        self._commits_here += 1
        if self._commits_here % _COMMITS_HERE == 0:
            self.jobs.put(Order.LOOK)
        return work

    def _next(self) -> tuple[list[Job], bool]:
        jobs: list[Job] = []
        try:
            job = self.jobs.get(timeout=max(self._watch_at - time.monotonic(), 0.0))
            while job is not Order.STOP:
                if isinstance(job, Job) and not job.future.cancelled():
                    jobs.append(job)
                if len(jobs) == _MOST_JOBS:
                    return jobs, False
                job = self.jobs.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True

    def _finish(self, jobs: Sequence[Job]) -> None:
        error = self._transact(jobs, patience_s=self._patience_s)
        if error is not None and len(jobs) > 1 and primary_code(error) != sqlite3.SQLITE_BUSY:
            for job in jobs:  # one of them asked for too much: the others need not share its fate
                self._settle([job], self._transact([job], patience_s=self._patience_s))
        else:
            self._settle(jobs, error)
        self._crowded = self._never_here or len(jobs) > 1

    def _settle(self, jobs: Sequence[Work], error: sqlite3.Error | None) -> None:
        if error is not None:
            for job in jobs:
                job.error = unavailable(error, path=str(self._path))

    def _transact(self, jobs: Sequence[Work], *, patience_s: float) -> sqlite3.Error | None:
        execute = self._connection.execute
        try:
            patiently(self._connection, "BEGIN IMMEDIATE", patience_s=patience_s)
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
        except BaseException:  # an interrupt, in a thread that is not the writer's
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        self._notifier.notify(changes)
        return None

    def _run_alone(self, job: Work, unit: Unit) -> Changes:
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

    def _run(self, job: Work, unit: Unit) -> Changes:
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

    def _fold(self) -> None:
        """Folds the log into the file when it has grown; the waiting for the disk is done here, in the thread."""
        try:
            size = self._log.stat().st_size
            if size >= self._fold_at:
                with self._using:
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._fold_at = size + _LOG_BYTES  # a reader may keep it from being emptied
            elif size < _LOG_BYTES:
                self._fold_at = _LOG_BYTES
        except (OSError, sqlite3.Error):  # nobody asked; what was written is safe in the log
            self._fold_at += _LOG_BYTES

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
            self._transact((), patience_s=self._patience_s)
        interval_s = _WATCH_INTERVAL_S if self._notifier.has_waiters() else SWEEP_INTERVAL_S
        self._watch_at = time.monotonic() + interval_s * random.uniform(0.75, 1.25)
