"""Executors: where operations run, and the one for tables in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from agentlightning.store._notifier import Notifier
from agentlightning.store._rollout_operations import sweep
from agentlightning.store._tables import Tables
from agentlightning.store._unit import Operation, Result, Unit

SWEEP_INTERVAL_S = 0.2
"""How often overdue attempts are looked for while nobody calls."""


class Executor(Protocol):
    """Runs operations one by one, each wholly or not at all, and notifies of what they changed."""

    async def write(self, operation: Operation[Result]) -> Result:
        """Runs an operation after a sweep, and commits both."""
        ...

    async def read(self, operation: Operation[Result]) -> Result:
        """Runs an operation that changes nothing, on a state in which nothing is overdue."""
        ...


class MemoryExecutor:
    """Runs operations at once, in the caller's thread, under a lock; sweeps from a thread of its own."""

    def __init__(
        self, tables: Tables, notifier: Notifier, *, clock: Callable[[], float], new_id: Callable[[], str]
    ) -> None:
        self._tables = tables
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts sweeping."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._sweep_on, name="agl-store-sweeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops sweeping."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    async def write(self, operation: Operation[Result]) -> Result:
        """Runs an operation after a sweep."""
        return self._run(operation)

    async def read(self, operation: Operation[Result]) -> Result:
        """Runs an operation after a sweep."""
        return self._run(operation)

    def _run(self, operation: Operation[Result]) -> Result:
        with self._lock:
            unit = Unit(self._tables, self._clock(), self._new_id)
            try:
                sweep(unit)
                return operation(unit)
            finally:
                self._notifier.notify(unit.changed)

    def _sweep_on(self) -> None:
        while not self._stop.wait(SWEEP_INTERVAL_S):
            self._run(lambda _: None)
