"""The reader: one thread that answers reads from snapshots, beside the writer."""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable
from pathlib import Path

from agentlightning.store._jobs import Job, deliver
from agentlightning.store._sqlite_errors import unavailable
from agentlightning.store._sqlite_tables import SqliteTables
from agentlightning.store._unit import Unit


class Overdue(Exception):
    """A signal between two threads, never seen by callers: sweep, then read again."""


class Reader:
    """Runs jobs that change nothing, each on one snapshot."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        path: Path,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._connection = connection
        self._tables = SqliteTables(connection)
        self._path = path
        self._clock = clock
        self._new_id = new_id

    def run(self) -> None:
        """Works until None comes through the queue, then closes the file."""
        while (job := self.jobs.get()) is not None:
            if not job.future.cancelled():
                self._finish(job)
        self._connection.close()

    def _finish(self, job: Job) -> None:
        try:
            self._connection.execute("BEGIN")
            try:
                job.result = self._read(job)
            finally:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            job.error = unavailable(error, path=str(self._path))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            job.error = error
        deliver([job])

    def _read(self, job: Job) -> object:
        unit = Unit(self._tables, self._clock(), self._new_id)
        due_at = self._tables.attempts.next_due()
        if due_at is not None and due_at <= unit.now:
            raise Overdue
        return job.operation(unit)
