"""Executors: where operations run, and the one for tables in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

from agentlightning.errors import StoreUnavailable
from agentlightning.store._notifier import Notifier
from agentlightning.store._rollout_operations import sweep
from agentlightning.store._tables import Tables
from agentlightning.store._unit import Operation, Result, Unit

SWEEP_INTERVAL_S = 0.2
"""How often overdue attempts are looked for while nobody calls."""


KEY_LIFE_S = 86_400.0
"""How long an idempotency key is remembered."""


FEW = 32
"""Rollouts or spans that make a light operation."""


FORGET_INTERVAL_S = 600.0
"""How often forgotten keys are looked for."""


def forget_keys(unit: Unit) -> None:
    """Forgets idempotency keys that nobody will repeat any more."""
    unit.tables.keys.forget(unit.now - KEY_LIFE_S)


class Executor(Protocol):
    """Runs operations one by one, each wholly or not at all, and notifies of what they changed."""

    async def write(
        self,
        operation: Operation[Result],
        *,
        undo: Callable[[Result], Operation[object]] | None = None,
        light: bool = False,
    ) -> Result:
        """Runs an operation after a sweep, and commits both.

        Args:
            undo: Makes the operation to run if the caller was cancelled before it learned of the result.
            light: It takes so little that an event loop can spare the time for it.
        """
        ...

    async def read(self, operation: Operation[Result]) -> Result:
        """Runs an operation that changes nothing, on a state in which nothing is overdue."""
        ...

    def start(self) -> None:
        """Opens it; called again, counts users. Blocks."""
        ...

    def stop(self) -> None:
        """Closes it with its last user. Blocks."""
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
        self._users = 0
        self._stopping = threading.Event()
        self._process = os.getpid()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts sweeping."""
        with self._lock:
            self._users += 1
            if self._thread is None:
                self._stopping = threading.Event()
                self._thread = threading.Thread(
                    target=self._sweep_on, args=(self._stopping,), name="agl-store", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """Stops sweeping with the last user."""
        with self._lock:
            self._users -= 1
            thread = self._thread
            if self._users or thread is None:
                return
            self._thread = None
            self._stopping.set()
        thread.join()

    async def write(
        self,
        operation: Operation[Result],
        *,
        undo: Callable[[Result], Operation[object]] | None = None,
        light: bool = False,
    ) -> Result:
        """Runs an operation after a sweep."""
        del undo, light  # nothing can come between the operation and its caller
        return self._run(operation)

    async def read(self, operation: Operation[Result]) -> Result:
        """Runs an operation after a sweep."""
        return self._run(operation)

    def _run(self, operation: Operation[Result]) -> Result:
        if os.getpid() != self._process:  # before the lock, which another thread may have held at the fork
            raise StoreUnavailable("a memory:// store stays in its process; open sqlite:///FILE to share one")
        if not self._users:
            raise StoreUnavailable("the store memory:// is not open; use `async with` around what needs it")
        return self._swept(operation)

    def _swept(self, operation: Operation[Result]) -> Result:
        with self._lock:
            now = self._clock()
            before = Unit(self._tables, now, self._new_id)
            unit = Unit(self._tables, now, self._new_id, sweep(before))
            try:
                return operation(unit)
            finally:
                before.changes.add(unit.changes)
                self._notifier.notify(before.changes)

    def _sweep_on(self, stopping: threading.Event) -> None:
        while not stopping.wait(SWEEP_INTERVAL_S):
            self._swept(forget_keys)
