"""The one thread on which sampling steps and weight changes take turns."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from agentlightning.errors import EngineError

Result = TypeVar("Result")


class Steps(Protocol):
    """Work that goes on between jobs."""

    def step(self) -> bool:
        """Does a little; returns whether there is more to do."""
        ...

    def stop(self) -> None:
        """Ends what is under way."""
        ...


class Worker:
    """Runs jobs in order of arrival, and steps while there are none.

    Jobs never overlap with a step, so a job may change weights without a lock.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._steps: Steps | None = None

    @property
    def running(self) -> bool:
        """Whether jobs are taken."""
        return self._thread is not None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def steps(self, steps: Steps | None) -> None:
        """Sets what is stepped between jobs; called on the worker's thread."""
        self._steps = steps

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """Queues a job; the future carries its result or exception.

        Raises:
            EngineError: The worker does not run.
        """
        if self._thread is None:
            raise EngineError("engine 'torch' is not running; await engine.start() first")
        future: Future[Result] = Future()
        self._jobs.put(lambda: _settle(future, job))
        return future

    def stop(self) -> None:
        """Ends the thread once every job queued so far has run; the steps are told to stop."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def _run(self) -> None:
        busy = False
        while True:
            try:
                job = self._jobs.get(block=not busy)
            except queue.Empty:
                busy = self._steps is not None and self._steps.step()
                continue
            if job is None:
                if self._steps is not None:
                    self._steps.stop()
                return
            job()
            busy = True


def _settle(future: Future[Result], job: Callable[[], Result]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except BaseException as error:  # noqa: BLE001 - a job's exception belongs to whoever awaits it
        future.set_exception(error)
    else:
        future.set_result(result)
