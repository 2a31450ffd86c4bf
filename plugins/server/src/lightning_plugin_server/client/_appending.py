"""Appends spans: in calls of sensible size, and over the disk while the server is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from agentlightning.errors import AglError, StoreUnavailable
from agentlightning.store import AppendResult
from agentlightning.types import Span
from lightning_plugin_server.client._spool import Spool, left_spools, new_spool
from lightning_plugin_server.client._transport import Away, Transport, encoded

_log = logging.getLogger(__name__)
_PATH: Final = "/api/spans/append"
_BODY_BYTES: Final = 4 * 2**20
_AT_ONCE: Final = 8  # calls in flight; who appends more waits
_PAUSE_S: Final = (0.2, 10.0)  # between tries to deliver what waits


class _Frame(msgspec.Struct, frozen=True):
    attempts: tuple[str, ...]
    payload: bytes


_frames = msgspec.msgpack.Decoder(_Frame)


class Appending:
    """Brings spans to the server, in the order in which they came.

    While spans wait on disk, later ones queue behind them.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._address = transport.address
        self._spool: Spool | None = None
        self._waiting: Counter[str] = Counter()
        self._replay: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def open(self) -> None:
        """Begins to deliver what dead processes left. Runs in the transport's loop, as all that follows."""
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._replay = asyncio.create_task(self._deliver_left(), name="spool-replay")

    async def close(self) -> None:
        """Tries once more to deliver what waits; the rest stays on disk for the next process."""
        if self._replay is not None:
            self._replay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._replay
            self._replay = None
        if self._spool is not None:
            with contextlib.suppress(Away):
                await self._empty(self._spool, patience_s=0.0)
            self._spool.close()
            self._spool = None

    async def append(self, spans: Sequence[Span], *, token: int | None) -> AppendResult:
        """Appends spans, from any loop."""
        total = AppendResult(stored=0)
        for part, payload in _parts(spans, token):
            attempts = tuple(dict.fromkeys(span.attempt_id for span in part))
            result = await self._transport.run(self._append(attempts, payload, count=len(part)))
            total = AppendResult(
                stored=total.stored + result.stored,
                duplicates=total.duplicates + result.duplicates,
                late=total.late + result.late,
                spooled=total.spooled + result.spooled,
            )
        return total

    async def delivered(self, attempt_id: str) -> None:
        """Returns once none of an attempt's spans wait on disk, from any loop.

        Raises:
            StoreUnavailable: The server stays away.
        """
        if self._waiting[attempt_id]:
            await self._transport.run(self._delivered(attempt_id))

    async def _append(self, attempts: tuple[str, ...], payload: bytes, *, count: int) -> AppendResult:
        async with self._slots:
            if self._spool is None or self._spool.empty:
                try:
                    result = await self._transport.deliver(
                        _PATH, payload, patience_s=self._address.spool_after_s
                    )
                except Away as away:
                    _log.warning("%s; spans wait on disk until it is back", away)
                else:
                    return msgspec.convert(result, AppendResult, from_attributes=True)
            self._put(attempts, payload)
        return AppendResult(stored=0, spooled=count)

    def _put(self, attempts: tuple[str, ...], payload: bytes) -> None:
        if self._spool is None:
            try:
                self._spool = new_spool(self._address.spool_folder, most_bytes=self._address.spool_bytes)
            except OSError as error:
                raise StoreUnavailable(
                    f"{self._address.url} is away, and nothing can wait on disk: {error}"
                ) from error
        self._spool.put(msgspec.msgpack.encode(_Frame(attempts, payload)))
        self._waiting.update(attempts)
        if self._replay is None or self._replay.done():
            self._replay = asyncio.create_task(self._deliver_own(self._spool), name="spool-replay")

    async def _delivered(self, attempt_id: str) -> None:
        until = time.monotonic() + self._address.patience_s
        while self._waiting[attempt_id]:
            self._changed.clear()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                raise StoreUnavailable(
                    f"spans of attempt {attempt_id!r} wait on disk, because {self._address.url} is away"
                ) from None

    async def _deliver_left(self) -> None:
        folder, most_bytes = self._address.spool_folder, self._address.spool_bytes
        for spool in left_spools(folder, most_bytes=most_bytes):
            try:
                await self._patiently(spool)
            finally:
                spool.close()
        if self._spool is not None:
            await self._deliver_own(self._spool)

    async def _deliver_own(self, spool: Spool) -> None:
        await self._patiently(spool)

    async def _patiently(self, spool: Spool) -> None:
        """Delivers until nothing waits, however long the server is away."""
        pause_s = _PAUSE_S[0]
        while not spool.empty:
            try:
                await self._empty(spool, patience_s=0.0)
            except Away:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_S[1])

    async def _empty(self, spool: Spool, *, patience_s: float) -> None:
        """Delivers what waits. Raises `Away`."""
        while (raw := spool.first()) is not None:
            frame = _frames.decode(raw)
            try:
                await self._transport.deliver(_PATH, frame.payload, patience_s=patience_s)
            except (AglError, ValueError) as error:
                self._refused(frame, error)
            spool.drop_first()
            self._waiting.subtract(frame.attempts)
            self._waiting += Counter()
            self._changed.set()

    def _refused(self, frame: _Frame, error: Exception) -> None:
        """Puts aside what the server does not take, and says so: it is never lost silently."""
        place = self._address.spool_folder / "refused.msgpack"
        with place.open("ab") as file:
            file.write(msgspec.msgpack.encode(frame))
        _log.error("spans of attempts %s are refused (%s); kept in %s", list(frame.attempts), error, place)


def _parts(spans: Sequence[Span], token: int | None) -> list[tuple[Sequence[Span], bytes]]:
    """Spans in calls that are not too large, each with its request."""
    payload = encoded(_PATH, {"spans": spans, "token": token})
    if len(payload) <= _BODY_BYTES or len(spans) < 2:
        return [(spans, payload)]
    middle = len(spans) // 2
    return [*_parts(spans[:middle], token), *_parts(spans[middle:], token)]
