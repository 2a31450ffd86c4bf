"""`http(s)://`: a store behind a server, with the semantics of any other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Self, cast

from agentlightning.errors import StoreUnavailable
from agentlightning.store import (
    Loaded,
    Record,
    ResourceStore,
    Retention,
    RolloutStore,
    RunStore,
    SpanStore,
    Statistics,
    Trimmed,
)
from lightning_plugin_server.client._address import address_of
from lightning_plugin_server.client._appending import Appending
from lightning_plugin_server.client._parts import Caller, HttpResources, HttpRollouts, HttpRuns, HttpSpans
from lightning_plugin_server.client._transport import Away, Transport

_OPENING_S = 5.0


class HttpStore:
    """A store behind `agl serve`. Safe to use from any thread's event loop; it may be entered several times.

    Calls are repeated while the server is away, for up to `patience_s` (30 seconds, or what the URL's parameter says),
    each with one effect. Spans that cannot be delivered wait on disk, also beyond the end of the process.

    Args:
        url: `http://host:port`, maybe with `?key_file=…`, `patience_s=…` or `spool_mb=…`. The key comes from AGL_KEY,
            from the named file, or, for a server on this machine, from where `agl serve` keeps it.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(self, url: str) -> None:
        address = address_of(url)
        transport = Transport(address)
        appending = Appending(transport)
        self.url = address.url
        self.rollouts: RolloutStore = HttpRollouts(transport, appending)
        self.spans: SpanStore = HttpSpans(transport, appending)
        self.resources: ResourceStore = HttpResources(transport)
        self.runs: RunStore = HttpRuns(transport)
        self._transport = transport
        self._appending = appending
        self._call = Caller(transport, "store")
        self._lock = threading.Lock()
        self._users = 0

    async def sweep(self) -> int:
        """Expires overdue leases and attempts now; returns how many."""
        return cast("int", await self._call("sweep"))

    async def statistics(self) -> Statistics:
        """How much there is of everything."""
        return cast("Statistics", await self._call("statistics"))

    async def trim(self, retention: Retention) -> Trimmed:
        """Deletes terminal rollouts, with all that belongs to them, as far as the retention says; oldest first."""
        return cast("Trimmed", await self._call("trim", retention=retention))

    async def load(self, records: Sequence[Record]) -> Loaded:
        """Adds records as another store exported them; what is there already is skipped."""
        return cast("Loaded", await self._call("load", records=records))

    async def __aenter__(self) -> Self:
        """Connects.

        Raises:
            StoreUnavailable: Nothing answers there.
        """
        opening = asyncio.create_task(asyncio.to_thread(self._open))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])
            if opening.exception() is None:
                await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnects with its last user; what could not be delivered stays on disk."""
        await asyncio.to_thread(self._close)

    def _open(self) -> None:
        with self._lock:
            if not self._users:
                self._transport.start()
                try:
                    self._transport.submit(self._reach()).result()
                except BaseException:
                    self._transport.stop()
                    raise
            self._users += 1

    def _close(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            try:
                self._transport.submit(self._appending.close()).result()
            finally:
                self._transport.stop()

    async def _reach(self) -> None:
        until = asyncio.get_running_loop().time() + _OPENING_S
        while True:
            try:
                await self._transport.healthy()
                break
            except Away as away:
                if asyncio.get_running_loop().time() >= until:
                    raise StoreUnavailable(
                        f"{away}; start one there with `agl serve`, or check the URL"
                    ) from away
            await asyncio.sleep(0.2)
        await self._appending.open()
