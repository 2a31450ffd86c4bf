"""Connections to endpoints: kept alive over all clients and rollouts of the process."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import openai

if TYPE_CHECKING:
    import httpx2


class Pools:
    """One pool of connections for all threads, and one for each event loop.

    An async client of the agent may outlive an event loop, its connections cannot: training and evaluating afterwards
    are two loops. Proxies of the environment are for the world outside, not for an endpoint.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: httpx2.Client | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = WeakKeyDictionary()
        self._closing: set[asyncio.Task[None]] = set()

    def of_threads(self) -> httpx2.Client:
        """Connections of sync clients."""
        with self._lock:
            if self._threads is None:
                self._threads = openai.DefaultHttpxClient(trust_env=False)
            return self._threads

    def of_loop(self) -> httpx2.AsyncClient:
        """Connections of async clients in the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            pool = self._loops.get(loop)
            if pool is None:
                pool = self._loops[loop] = openai.DefaultAsyncHttpxClient(trust_env=False)
            return pool

    def close(self) -> None:
        """Lets go of them; those of a running event loop in its next turns."""
        with self._lock:
            threads, self._threads = self._threads, None
            loops = list(self._loops.items())
            self._loops.clear()
        if threads is not None:
            threads.close()
        for loop, pool in loops:
            if loop.is_running():
                loop.call_soon_threadsafe(self._close, pool)

    def _close(self, pool: httpx2.AsyncClient) -> None:
        task = asyncio.ensure_future(pool.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
