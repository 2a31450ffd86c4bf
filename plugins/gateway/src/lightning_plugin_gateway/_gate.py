"""The gate that holds calls while weights change."""

from __future__ import annotations

import asyncio
import math

from agentlightning.errors import GatewayError
from lightning_plugin_gateway._errors import ApiError


class Gate:
    """Counts calls in flight; while it is closed, new calls wait. For use in one event loop."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._closed = 0
        self._in_flight = 0
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_open(self) -> bool:
        """Calls go through."""
        return not self._closed

    async def enter(self) -> None:
        """Waits until the gate is open. Raises `ApiError` 503 if that takes too long."""
        if self._closed:
            await self._wait()
        self._in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        """Ends what `enter` began."""
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    async def close(self, *, drain_timeout_s: float) -> None:
        """Holds new calls and returns when none is in flight.

        Raises:
            GatewayError: Calls were still in flight when the time was up; the gate is as it was.
        """
        self._closed += 1
        self._open.clear()
        try:
            async with asyncio.timeout(drain_timeout_s):
                await self._idle.wait()
        except TimeoutError:
            message = f"{self._in_flight} calls were still in flight after {drain_timeout_s} s; raise drain_timeout_s"
            self.open()
            raise GatewayError(message) from None
        except asyncio.CancelledError:
            self.open()
            raise

    def open(self) -> None:
        """Ends what `close` began; the last one lets held calls go on."""
        self._closed -= 1
        if not self._closed:
            self._open.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._closed:
                    await self._open.wait()
        except TimeoutError:
            message = (
                f"the gateway was paused for longer than {self._timeout_s} s (`pause_timeout_s`); try again"
            )
            seconds = str(max(1, math.ceil(min(self._timeout_s, 30.0))))
            raise ApiError(503, message, fault="paused", retry_after=seconds) from None
