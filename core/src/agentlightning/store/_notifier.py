"""Wakes whoever waits for a change, in whatever event loop it waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum

from agentlightning.store._unit import Changes


class Topic(StrEnum):
    """What can be waited for."""

    QUEUED = "queued"
    COMPLETED = "completed"


_Woken = asyncio.Future[str | None]
"""Resolved with the run whose work it is, where that is known."""


class Notifier:
    """Counts changes by topic and wakes waiters.

    A waiter takes a ticket, looks, and waits on the ticket: a change between its look and its wait is not missed.
    Of those who wait for work as many are woken as there is work, who has waited longest first; a wake-up that finds
    its waiter gone goes to the next.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes = dict.fromkeys(Topic, 0)
        self._hungry: dict[_Woken, str | None] = {}
        self._curious: set[_Woken] = set()

    def ticket(self, topic: Topic) -> int:
        """Stands for the changes so far."""
        return self._changes[topic]

    def has_waiters(self) -> bool:
        """Whether anybody waits for anything."""
        return bool(self._hungry or self._curious)

    def notify(self, changes: Changes) -> None:
        """Wakes whom the changes concern; from any thread."""
        if changes.queued:
            self._feed(changes.queued)
        if changes.completed:
            self._tell()

    def notify_all(self) -> None:
        """Wakes everybody: something changed elsewhere, nobody knows what."""
        with self._lock:
            self._changes[Topic.QUEUED] += 1
            woken, self._hungry = self._hungry, {}
        for future in woken:
            _wake(future)
        self._tell()

    async def wait(
        self, topic: Topic, ticket: int, timeout_s: float | None, *, run_id: str | None = None
    ) -> None:
        """Returns at a change after the ticket that concerns this waiter, or when the time is up.

        Args:
            run_id: The only run whose work is wanted; None wants any.
        """
        future: _Woken = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._changes[topic] != ticket:
                return
            if topic is Topic.QUEUED:
                self._hungry[future] = run_id
            else:
                self._curious.add(future)
        try:
            async with asyncio.timeout(timeout_s):  # `wait_for` may keep a cancellation to itself
                await future
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            if topic is Topic.QUEUED and future.done() and not future.cancelled():
                self._feed({future.result(): 1})
            raise
        finally:
            with self._lock:
                self._hungry.pop(future, None)
                self._curious.discard(future)

    def _tell(self) -> None:
        with self._lock:
            self._changes[Topic.COMPLETED] += 1
            woken, self._curious = self._curious, set()
        for future in woken:
            _wake(future)

    def _feed(self, queued: Mapping[str | None, int]) -> None:
        left = dict(queued)
        woken: list[tuple[_Woken, str | None]] = []
        with self._lock:
            self._changes[Topic.QUEUED] += 1
            for future, wanted in list(self._hungry.items()):
                run_id = next(iter(left)) if wanted is None else wanted
                if run_id not in left:
                    continue
                left[run_id] -= 1
                if not left[run_id]:
                    del left[run_id]
                del self._hungry[future]
                woken.append((future, run_id))
                if not left:
                    break
        for future, run_id in woken:
            _wake(future, run_id, otherwise=self._feed)


def _wake(
    future: _Woken,
    run_id: str | None = None,
    *,
    otherwise: Callable[[Mapping[str | None, int]], None] | None = None,
) -> None:
    """Resolves a future in its loop; if nobody waits for it any more, its work is offered to others."""
    loop = future.get_loop()

    def wake() -> None:
        if not future.done():
            future.set_result(run_id)
        elif otherwise is not None:
            otherwise({run_id: 1})

    try:
        loop.call_soon_threadsafe(wake)
    except RuntimeError:  # a loop that is closed has nobody left to wake
        if not loop.is_closed():
            raise
        if otherwise is not None:
            otherwise({run_id: 1})
