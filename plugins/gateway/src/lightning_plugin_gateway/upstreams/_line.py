"""Calls that wait for a server: bounded, and fair between rollouts."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Generic, TypeVar

Granted = TypeVar("Granted")


class Waiter(Generic[Granted]):
    """One call in line.

    Attributes:
        key: Whose call it is.
        avoid: Servers that it has tried.
        turn: Done when it is its turn.
        waits: It is in line.
    """

    def __init__(self, key: bytes, avoid: set[str]) -> None:
        self.key = key
        self.avoid = avoid
        self.turn: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        self.waits = True


class Line(Generic[Granted]):
    """First come, first served among the calls of one key; keys take turns, so one that asks much delays no other."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, deque[Waiter[Granted]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def join(self, key: bytes, *, avoid: set[str]) -> Waiter[Granted]:
        """Goes to the end of its key's line."""
        waiter: Waiter[Granted] = Waiter(key, avoid)
        self._keys.setdefault(key, deque()).append(waiter)
        self._size += 1
        return waiter

    def leave(self, waiter: Waiter[Granted]) -> None:
        """Gives up, if it still waits."""
        if not waiter.waits:
            return
        waiter.waits = False
        waiters = self._keys[waiter.key]
        waiters.remove(waiter)
        self._size -= 1
        if not waiters:
            del self._keys[waiter.key]

    def pop(self) -> Waiter[Granted]:
        """Takes out whose turn it is. Raises `KeyError` if nobody waits."""
        key, waiters = self._keys.popitem(last=False)
        waiter = waiters.popleft()
        waiter.waits = False
        self._size -= 1
        if waiters:
            self._keys[key] = waiters
        return waiter
