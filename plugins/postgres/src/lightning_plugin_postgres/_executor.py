"""The executor of the PostgreSQL backend: a writer thread and some reader threads, each with a connection."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Final, cast

import psycopg

from agentlightning.errors import StoreUnavailable
from agentlightning.store.backend import Job, Notifier, Operation, Result
from lightning_plugin_postgres._address import Address
from lightning_plugin_postgres._connection import connect
from lightning_plugin_postgres._failures import unavailable
from lightning_plugin_postgres._listener import Listener
from lightning_plugin_postgres._reader import Overdue, Question, Reader
from lightning_plugin_postgres._schema import migrate
from lightning_plugin_postgres._writer import Order, Writer

_STRICT_S: Final = 1.0  # how long a read waits for an overdue attempt that another server has locked
_NAP_S: Final = (0.005, 0.02)


class PostgresExecutor:
    """Hands writes to the writer's thread and reads to the readers'."""

    def __init__(
        self,
        address: Address,
        notifier: Notifier,
        *,
        readers: int,
        patience_s: float,
        clock: Callable[[], float] | None,
        new_id: Callable[[], str],
    ) -> None:
        self._address = address
        self._notifier = notifier
        self._reader_count = readers
        self._patience_s = patience_s
        self._clock = clock
        self._new_id = new_id
        self._lock = threading.Lock()
        self._users = 0
        self._process = os.getpid()
        self._writer: Writer | None = None
        self._questions: queue.SimpleQueue[Question | None] | None = None
        self._listener: Listener | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Connects and brings the schema up to date; called again, counts users."""
        self._check_process()
        with self._lock:
            if not self._users:
                self._open()
            self._users += 1

    def stop(self) -> None:
        """Disconnects with its last user, when what is queued is done."""
        self._check_process()
        with self._lock:
            self._users -= 1
            if self._users or self._writer is None or self._questions is None:
                return
            for _ in range(self._reader_count):
                self._questions.put(None)
            if self._listener is not None:
                self._listener.stop()
            self._writer.jobs.put(Order.STOP)
            for thread in self._threads:
                thread.join()
            self._writer = self._questions = self._listener = None
            self._threads = []

    async def write(
        self,
        operation: Operation[Result],
        *,
        undo: Callable[[Result], Operation[object]] | None = None,
        light: bool = False,
    ) -> Result:
        """Runs an operation after a sweep, and commits both."""
        del light  # nothing that crosses a network is
        self._check_process()
        if self._writer is None:
            raise self._closed()
        jobs = self._writer.jobs
        abandoned = None if undo is None else lambda result: _undo(jobs, undo(cast("Result", result)))
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        jobs.put(Job(operation, future, abandoned=abandoned))
        return cast("Result", await future)

    async def read(self, operation: Operation[Result]) -> Result:
        """Runs an operation that changes nothing, on a state in which nothing is overdue.

        Only what another session keeps locked for long is shown as it was last committed.
        """
        self._check_process()
        strict_until = time.monotonic() + _STRICT_S
        while True:
            if self._questions is None:
                raise self._closed()
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            self._questions.put(Question(Job(operation, future), strict=time.monotonic() < strict_until))
            try:
                return cast("Result", await future)
            except Overdue:
                if not await self.write(lambda unit: unit.swept):
                    await asyncio.sleep(random.uniform(*_NAP_S))

    def _open(self) -> None:
        try:
            connection = connect(self._address, writing=True)
            try:
                migrate(connection, self._address)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise unavailable(error, self._address) from error
        self._writer = Writer(
            connection,
            self._notifier,
            address=self._address,
            patience_s=self._patience_s,
            clock=self._clock,
            new_id=self._new_id,
        )
        self._questions = queue.SimpleQueue()
        readers = [
            Reader(
                self._questions,
                address=self._address,
                patience_s=self._patience_s,
                clock=self._clock,
                new_id=self._new_id,
            )
            for _ in range(self._reader_count)
        ]
        workers: list[Writer | Reader | Listener] = [self._writer, *readers]
        if self._address.notify:
            self._listener = Listener(self._address, self._writer.jobs)
            workers.append(self._listener)
        self._threads = [
            threading.Thread(target=worker.run, name=f"agl-{type(worker).__name__.lower()}", daemon=True)
            for worker in workers
        ]
        for thread in self._threads:
            thread.start()

    def _check_process(self) -> None:
        # two processes that talk over one connection would read each other's answers
        if os.getpid() != self._process:
            raise StoreUnavailable(
                f"store {self._address.shown!r} was opened before this process was forked, and connections cannot"
                " be shared; start processes with 'spawn', and open the store in each"
            )

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"store {self._address.shown!r} is not open; use `async with` around what needs it"
        )


def _undo(jobs: queue.SimpleQueue[Job | Order], operation: Operation[object]) -> None:
    """Takes back what an abandoned job did; nobody waits for it."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.exception())
    jobs.put(Job(operation, future))
