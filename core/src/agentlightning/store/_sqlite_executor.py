"""The executor of the SQLite backend: a writer and a reader thread over one file."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from agentlightning.errors import StoreUnavailable
from agentlightning.store._jobs import Job
from agentlightning.store._notifier import Notifier
from agentlightning.store._sqlite_file import Durability, open_reader, open_writer
from agentlightning.store._sqlite_reader import Overdue, Reader
from agentlightning.store._sqlite_writer import Order, Writer
from agentlightning.store._unit import Operation, Result

_PAUSE_S: Final = 0.0005  # without a write, in which other tasks had their turn
_TURN_S: Final = 0.002  # a task may write on in its event loop before others get their turn


class SqliteExecutor:
    """Hands writes to the writer's thread and reads to the reader's."""

    def __init__(
        self,
        path: Path,
        notifier: Notifier,
        *,
        durability: Durability,
        patience_s: float,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._path = path
        self._notifier = notifier
        self._durability = durability
        self._patience_s = patience_s
        self._clock = clock
        self._new_id = new_id
        self._lock = threading.Lock()
        self._users = 0
        self._give_way_at = self._wrote_at = 0.0
        self._process = os.getpid()
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._threads: tuple[threading.Thread, ...] = ()

    def start(self) -> None:
        """Opens the file; called again, counts users."""
        self._check_process()
        with self._lock:
            if not self._users:
                self._open()
            self._users += 1

    def stop(self) -> None:
        """Closes the file with its last user, when what is queued is done."""
        self._check_process()
        with self._lock:
            self._users -= 1
            if self._users or self._reader is None or self._writer is None:
                return
            # the reader first: the last connection that closes a file folds its log into it
            reading, writing = self._threads
            self._reader.jobs.put(None)
            reading.join()
            self._writer.jobs.put(Order.STOP)
            writing.join()
            self._reader = self._writer = None

    async def write(
        self,
        operation: Operation[Result],
        *,
        undo: Callable[[Result], Operation[object]] | None = None,
        light: bool = False,
    ) -> Result:
        """Runs an operation after a sweep, and commits both.

        A light one that nobody else competes with runs in the caller's event loop: that takes less than the way to
        another thread and back. Where several write at once, the writer's thread commits them together.
        """
        self._check_process()
        writer = self._writer
        if writer is None:
            raise self._closed()
        abandoned = None if undo is None else lambda result: _undo(writer.jobs, undo(cast("Result", result)))
        began = time.monotonic()
        if light and (done := writer.run_here(operation, caller=asyncio.current_task())) is not None:
            try:
                await self._give_way(began)
            except asyncio.CancelledError:
                if abandoned is not None and done.error is None:
                    abandoned(done.result)
                raise
            if done.error is not None:
                raise done.error
            return cast("Result", done.result)
        return await _submit(writer.jobs, operation, abandoned=abandoned)

    async def read(self, operation: Operation[Result]) -> Result:
        """Runs an operation that changes nothing, on a state in which nothing is overdue."""
        self._check_process()
        while True:
            if self._reader is None:
                raise self._closed()
            try:
                return await _submit(self._reader.jobs, operation)
            except Overdue:
                await self.write(lambda unit: unit.swept)

    async def _give_way(self, began: float) -> None:
        """Lets a loop that is full of such writes get to its other tasks, not at each, as that is a system call."""
        now = time.monotonic()
        if began - self._wrote_at > _PAUSE_S:  # between two writes the others had theirs
            self._give_way_at = began + _TURN_S
        self._wrote_at = now
        if now >= self._give_way_at:
            self._give_way_at = now + _TURN_S
            await asyncio.sleep(0)

    def _open(self) -> None:
        connection = open_writer(self._path, durability=self._durability, patience_s=self._patience_s)
        try:
            reading = open_reader(self._path)
        except StoreUnavailable:
            connection.close()
            raise
        self._writer = Writer(
            connection,
            self._notifier,
            path=self._path,
            durability=self._durability,
            patience_s=self._patience_s,
            clock=self._clock,
            new_id=self._new_id,
        )
        self._reader = Reader(reading, path=self._path, clock=self._clock, new_id=self._new_id)
        self._threads = tuple(
            threading.Thread(target=worker.run, name=f"agl-store-{name}", daemon=True)
            for name, worker in (("reader", self._reader), ("writer", self._writer))
        )
        for thread in self._threads:
            thread.start()

    def _check_process(self) -> None:
        # SQLite keeps its locks per process: in a forked child it would believe to hold those of its parent
        if os.getpid() != self._process:
            raise StoreUnavailable(
                f"store {str(self._path)!r} was opened before this process was forked, which SQLite cannot bear;"
                " start processes with 'spawn', and open the store in each"
            )

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"store {str(self._path)!r} is not open; use `async with` around what needs it"
        )


async def _submit(
    jobs: queue.SimpleQueue[Job | None] | queue.SimpleQueue[Job | Order],
    operation: Operation[Result],
    *,
    abandoned: Callable[[object], None] | None = None,
) -> Result:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    jobs.put(Job(operation, future, abandoned=abandoned))
    return cast("Result", await future)


def _undo(jobs: queue.SimpleQueue[Job | Order], operation: Operation[object]) -> None:
    """Takes back what an abandoned job did; nobody waits for it."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.exception())
    jobs.put(Job(operation, future))
