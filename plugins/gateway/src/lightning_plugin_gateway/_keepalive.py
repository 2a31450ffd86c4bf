"""Comments that keep a waiting stream alive."""

from __future__ import annotations

import asyncio

from lightning_plugin_gateway._exchange import Exchange

_COMMENT = b": keep-alive\n\n"


class KeepAlive:
    """Sends a comment to a stream's client every so often, its head before the first, until it is stopped.

    Nothing is sent before the first is due: a call that fails at once still gets its own status.
    """

    def __init__(self, exchange: Exchange, *, every_s: float, headers: list[tuple[bytes, bytes]]) -> None:
        self._exchange = exchange
        self._every_s = every_s
        self._headers = headers
        self._sending: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(every_s, self._due)

    async def stop(self) -> None:
        """Returns when nothing more is sent; no-op the second time."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._sending:
            sending, self._sending = self._sending, None
            await sending

    def _due(self) -> None:
        self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        if not self._exchange.started:
            await self._exchange.start_events(self._headers)
        await self._exchange.send(_COMMENT)
        if self._timer:
            self._sending = None
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._due)
