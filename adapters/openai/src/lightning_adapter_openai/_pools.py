"""Connections to endpoints: kept alive over all clients and rollouts of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import openai


@dataclass(frozen=True, slots=True)
class _LoopPool:
    """A pool, and what closes it when its event loop ends."""

    client: openai.DefaultAsyncHttpxClient
    holder: AsyncGenerator[None, None]


class Pools:
    """One pool of connections for all threads, and one for each event loop.

    An async client of the agent may outlive an event loop, its connections cannot: training and evaluating afterwards
    are two loops. Proxies of the environment are for the world outside, not for an endpoint.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: openai.DefaultHttpxClient | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = WeakKeyDictionary()

    def of_threads(self) -> openai.DefaultHttpxClient:
        """Connections of sync clients."""
        with self._lock:
            if self._threads is None:
                self._threads = openai.DefaultHttpxClient(trust_env=False)
            return self._threads

    def of_loop(self) -> openai.DefaultAsyncHttpxClient:
        """Connections of async clients in the running event loop; they are closed when it ends."""
        loop = asyncio.get_running_loop()
        with self._lock:
            pool = self._loops.get(loop)
            if pool is None:
                client = openai.DefaultAsyncHttpxClient(trust_env=False)
                pool = self._loops[loop] = _LoopPool(client, _held(client))
                # Its first step makes the loop know the generator, which it closes before it ends.
                with suppress(StopIteration):
                    pool.holder.asend(None).send(None)
            return pool.client

    def close(self) -> None:
        """Lets go of the connections of threads."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.close()


async def _held(client: openai.DefaultAsyncHttpxClient) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()
