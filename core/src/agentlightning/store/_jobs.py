"""Jobs: operations on their way to a thread and back to the event loop that waits for them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable

from agentlightning.store._unit import Operation


class Work:
    """An operation, and in the end its result or its error."""

    __slots__ = ("error", "operation", "result")

    def __init__(self, operation: Operation[object]) -> None:
        self.operation = operation
        self.result: object = None
        self.error: Exception | None = None


class Job(Work):
    """Work on its way to another thread.

    Attributes:
        abandoned: Called with the result if nobody is there any more to take it.
    """

    __slots__ = ("abandoned", "future")

    def __init__(
        self,
        operation: Operation[object],
        future: asyncio.Future[object],
        *,
        abandoned: Callable[[object], None] | None = None,
    ) -> None:
        super().__init__(operation)
        self.future = future
        self.abandoned = abandoned


def deliver(jobs: Iterable[Job]) -> None:
    """Hands outcomes to those who wait, with one wake-up per event loop; from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = defaultdict(list)
    for job in jobs:
        by_loop[job.future.get_loop()].append(job)
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, of_loop)
        except RuntimeError:  # a loop that has been closed has nobody left who waits
            if not loop.is_closed():
                raise


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():  # cancelled meanwhile
            if job.abandoned is not None and job.error is None:
                job.abandoned(job.result)
        elif job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)
