"""An event loop in virtual time: when nothing is ready, its clock jumps to the next timer. One seed, one order."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_EPOCH_S = 1_800_000_000.0

MOST_STEPS = 400_000
"""Turns of the loop after which a simulation is taken for one that never ends."""


class Stuck(AssertionError):
    """Everything waits and nothing will ever wake it, or it never stops."""


class _Future(asyncio.Future[Any]):
    """Has its number as hash: sets of futures are in one order in every process."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._number = number

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[Any]):
    """The same for tasks."""

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number  # before the task registers itself in a set
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number


class _Jump:
    """Stands where a loop has its selector: instead of sleeping, it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[Any]:
        self._loop.turn(timeout_s)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs coroutines without real waiting, without threads and without sockets."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Jump(self)
        self._now = 0.0
        self._turns = 0
        self._failure: BaseException | None = None
        self._numbers = itertools.count(1)
        self.set_exception_handler(_tell_once)
        self.set_task_factory(
            lambda loop, coroutine, **options: _Task(next(self._numbers), coroutine, loop=loop, **options)
        )

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def wall_time(self) -> float:
        """The same as a date."""
        return _EPOCH_S + self._now

    def turn(self, timeout_s: float | None) -> None:
        """One turn: lets so many virtual seconds pass.

        Raises:
            Stuck: There is no timer to wait for, or there were too many turns.
            BaseException: What `fail` was given.
        """
        self._turns += 1
        if self._failure is not None:
            raise self._failure
        if timeout_s is None:
            raise Stuck("every task waits, and no timer will wake one")
        if self._turns > MOST_STEPS:
            raise Stuck(f"still busy after {MOST_STEPS} turns of the loop, at {self._now:.3f} s")
        self._now += timeout_s

    def allow_more_turns(self) -> None:
        """Begins to count turns anew, and forgets failures."""
        self._turns = 0
        self._failure = None

    def fail(self, error: BaseException) -> None:
        """Ends everything with this error, whichever task found it."""
        self._failure = self._failure or error

    def create_future(self) -> asyncio.Future[Any]:
        """A future in this loop."""
        return _Future(next(self._numbers), self)

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Calls at once, in this thread: other threads would bring their own order."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            done.set_exception(error)
        return done

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none: nothing here has a socket."""

    def _write_to_self(self) -> None:
        """Nothing sleeps that could be woken."""


def _tell_once(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Says nothing of what `fail` was told by a task that nobody waits for."""
    if not isinstance(context.get("exception"), AssertionError):
        loop.default_exception_handler(context)


def run_virtually(main: Coroutine[Any, Any, Any], loop: VirtualLoop) -> Any:
    """Runs to the end, then cancels what is left."""
    try:
        return loop.run_until_complete(main)
    finally:
        loop.allow_more_turns()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()
