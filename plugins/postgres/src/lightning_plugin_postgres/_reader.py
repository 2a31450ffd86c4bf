"""Readers: threads that answer reads from snapshots, beside the writer."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg

from agentlightning.store.backend import Job, Unit, deliver
from lightning_plugin_postgres._address import Address
from lightning_plugin_postgres._failures import is_away, unavailable
from lightning_plugin_postgres._line import Line
from lightning_plugin_postgres._session import CLOCK, ReadSession
from lightning_plugin_postgres._tables import PostgresTables

_RETRY_S: Final = 0.05


class Overdue(Exception):
    """A signal between threads, never seen by callers: sweep, then read again."""


@dataclass(frozen=True, slots=True)
class Question:
    """A job that changes nothing.

    Attributes:
        strict: Nothing may be overdue in the state that it sees.
    """

    job: Job
    strict: bool = True


class Reader:
    """Runs jobs that change nothing, each on one snapshot. Any number of readers share one queue."""

    def __init__(
        self,
        questions: queue.SimpleQueue[Question | None],
        *,
        address: Address,
        patience_s: float,
        clock: Callable[[], float] | None,
        new_id: Callable[[], str],
    ) -> None:
        self._questions = questions
        self._line = Line(address, writing=False)
        self._address = address
        self._patience_s = patience_s
        self._clock = clock
        self._new_id = new_id

    def run(self) -> None:
        """Works until None comes through the queue, then closes its connection."""
        while (question := self._questions.get()) is not None:
            if not question.job.future.cancelled():
                self._answer(question)
        self._line.close()

    def _answer(self, question: Question) -> None:
        until = time.monotonic() + self._patience_s
        job = question.job
        while True:
            try:
                job.result = self._read(question)
            except psycopg.Error as error:
                lost = is_away(error) or not self._line.survives(error)
                self._line.close()
                if lost and time.monotonic() < until:
                    time.sleep(_RETRY_S)
                    continue
                job.error = unavailable(error, self._address)
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
                job.error = error
            break
        deliver([job])
        self._end()

    def _read(self, question: Question) -> object:
        pipe = self._line.open()
        ((now, due_at),) = pipe.send(CLOCK).rows()
        now = now if self._clock is None else self._clock()
        if question.strict and due_at is not None and due_at <= now:
            raise Overdue
        session = ReadSession(pipe, due_at=due_at)
        return question.job.operation(Unit(PostgresTables(session, self._address), now, self._new_id))

    def _end(self) -> None:
        """Lets go of the snapshot, after whoever asked has been answered."""
        try:
            if self._line.is_open:
                self._line.open().settle()
        except psycopg.Error:
            self._line.close()
