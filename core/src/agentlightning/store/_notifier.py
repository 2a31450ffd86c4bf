"""Wakes whoever waits for a change, in whatever event loop it waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

from agentlightning.store._unit import Topic


class Notifier:
    """Counts changes by topic and wakes waiters.

    A waiter takes a ticket, looks, and waits on the ticket: a change between its look and its wait is not missed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes = dict.fromkeys(Topic, 0)
        self._waiting: dict[Topic, set[asyncio.Future[None]]] = {topic: set() for topic in Topic}

    def ticket(self, topic: Topic) -> int:
        """Stands for the changes so far."""
        return self._changes[topic]

    def has_waiters(self) -> bool:
        """Whether anybody waits for anything."""
        return any(self._waiting.values())

    def notify(self, topics: Iterable[Topic]) -> None:
        """Wakes everybody who waits for one of the topics; from any thread."""
        for topic in topics:
            with self._lock:
                self._changes[topic] += 1
                woken = self._waiting[topic]
                self._waiting[topic] = set()
            for future in woken:
                wake_in_loop(future.get_loop(), [future])

    async def wait(self, topic: Topic, ticket: int, timeout_s: float | None) -> None:
        """Returns at the first change after the ticket, or when the time is up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._changes[topic] != ticket:
                return
            self._waiting[topic].add(future)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiting[topic].discard(future)


def wake_in_loop(loop: asyncio.AbstractEventLoop, futures: Iterable[asyncio.Future[None]]) -> None:
    """Resolves futures in their loop; a loop that is closed has nobody left to wake."""

    def wake() -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)

    try:
        loop.call_soon_threadsafe(wake)
    except RuntimeError:
        if not loop.is_closed():
            raise
