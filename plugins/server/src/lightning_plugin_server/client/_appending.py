"""Appends spans: in calls of sensible size, and over the disk while the server is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

import msgspec

from agentlightning.errors import AccessError, AglError, StoreUnavailable
from agentlightning.store import AppendResult
from agentlightning.types import Span
from lightning_plugin_server.client._faults import StrangeAnswer
from lightning_plugin_server.client._spool import Spool, left_spool, new_spool, put_aside
from lightning_plugin_server.client._transport import Away, Transport, encoded

_log = logging.getLogger(__name__)
_PATH: Final = "/api/spans/append"
_BODY_BYTES: Final = 4 * 2**20
_AT_ONCE: Final = 8  # calls in flight; who appends more waits
_PAUSE_S: Final = (0.2, 10.0)  # between tries to deliver what waits
_LOOK_S: Final = 30.0  # between looks for what others left


class _Frame(msgspec.Struct, frozen=True):
    attempts: tuple[str, ...]
    payload: bytes


class _Request(msgspec.Struct, frozen=True):
    spans: tuple[Span, ...]
    token: int | None = None


class _Refused(msgspec.Struct, frozen=True):
    reason: str
    span: Span
    token: int | None


class _Unreadable(msgspec.Struct, frozen=True):
    reason: str
    frame: bytes


_frames = msgspec.msgpack.Decoder(_Frame)
_requests = msgspec.msgpack.Decoder(_Request)


class Appending:
    """Brings spans to the server; those of one attempt in the order in which they came.

    While the server is away they wait on disk, and one task brings them when it is back: this process's own first,
    then what dead processes left.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._address = transport.address
        self._spool: Spool | None = None
        self._left: Spool | None = None
        self._waiting: Counter[str] = Counter()
        self._why = ""  # the server is taken to be away, for this reason
        self._takes_over = True
        self._bringing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begins to deliver what dead processes left. Runs in the transport's loop, as all that follows."""
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._bringing = asyncio.create_task(self._bring(), name="spool-delivery")

    async def close(self) -> None:
        """Tries once more to deliver what waits; the rest stays on disk for the next process."""
        if self._bringing is not None:
            self._bringing.cancel()
            await asyncio.gather(self._bringing, return_exceptions=True)
            self._bringing = None
        if self._spool is not None:
            with contextlib.suppress(Away, TimeoutError):
                async with asyncio.timeout(self._address.patience_s):
                    while not self._spool.empty:
                        await self._deliver_first(self._spool)
            if not self._spool.empty:
                _log.warning(
                    "spans wait on disk for %s to be back; any agl process brings them", self._address.url
                )
        for spool in (self._spool, self._left):
            if spool is not None:
                spool.close()
        self._spool = self._left = None
        self._waiting.clear()

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
        if not self._waiting[attempt_id]:
            return
        if not await self._transport.run(self._settled((attempt_id,), self._address.patience_s)):
            raise StoreUnavailable(
                f"spans of attempt {attempt_id!r} wait on disk: {self._why or 'there are many of them'}"
            )

    async def _append(self, attempts: tuple[str, ...], payload: bytes, *, count: int) -> AppendResult:
        async with self._slots:
            if await self._open_way(attempts):
                try:
                    result = await self._transport.deliver(
                        _PATH, payload, patience_s=self._address.spool_after_s
                    )
                except Away as away:
                    self._away(away)
                else:
                    self._why = ""
                    return cast("AppendResult", result)
            self._put(attempts, payload)
        return AppendResult(stored=0, spooled=count)

    async def _open_way(self, attempts: tuple[str, ...]) -> bool:
        """Whether spans may go to the server: it is there, and none before them wait on disk."""
        if self._spool is None or self._spool.empty:
            return True
        if self._why:
            return False
        return await self._settled(attempts, self._address.spool_after_s)

    async def _settled(self, attempts: tuple[str, ...], timeout_s: float) -> bool:
        """Waits until nothing of the attempts waits on disk; false if the time was not enough."""
        until = time.monotonic() + timeout_s
        while any(self._waiting[attempt] for attempt in attempts):
            self._changed.clear()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True

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
        self._wake.set()

    def _away(self, error: Exception) -> None:
        if not self._why:
            _log.warning("%s; spans wait on disk until it is back", error)
        self._why = str(error)

    async def _bring(self) -> None:
        """Delivers what waits, for as long as the store is open and however long the server is away."""
        pause_s = _PAUSE_S[0]
        while True:
            spool = await self._next()
            if spool is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._wake.wait()
                continue
            try:
                await self._deliver_first(spool)
                pause_s = _PAUSE_S[0]
            except (Away, OSError) as away:
                self._away(away)
                if spool is self._left and isinstance(away.__cause__, AccessError):
                    self._leave_to_others()
                    continue
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_S[1])

    async def _next(self) -> Spool | None:
        """The spool to deliver from; this process's own comes first, since its attempts wait for it."""
        self._wake.clear()
        if self._spool is not None and not self._spool.empty:
            return self._spool
        if self._left is not None and self._left.empty:
            self._left.close()
            self._left = None
        if self._left is None and self._takes_over:
            await self._take_over()
        return self._left

    def _leave_to_others(self) -> None:
        """What a dead process left is not this one's to bring: its key does not reach that far."""
        if self._left is not None:
            self._left.close()
        self._left, self._takes_over, self._why = None, False, ""

    async def _take_over(self) -> None:
        taking = asyncio.create_task(
            asyncio.to_thread(left_spool, self._address.spool_folder, most_bytes=self._address.spool_bytes)
        )
        try:
            self._left = await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._left = await taking
            raise
        for payload in self._left.payloads() if self._left else ():
            with contextlib.suppress(msgspec.DecodeError):
                self._waiting.update(_frames.decode(payload).attempts)

    async def _deliver_first(self, spool: Spool) -> None:
        """Delivers what has waited for longest.

        Raises:
            Away: It has to wait on.
        """
        payload = spool.first()
        if payload is None:
            return
        try:
            frame = _frames.decode(payload)
            request = _requests.decode(frame.payload)
        except msgspec.DecodeError as error:
            self._put_aside([_Unreadable(f"it is of another version: {error}", payload)])
            spool.drop(payload)
            return
        refused = await self._deliver(request, frame.payload)
        self._put_aside(refused)
        spool.drop(payload)
        self._why = ""
        self._waiting.subtract(frame.attempts)
        self._waiting += Counter()
        self._changed.set()

    async def _deliver(self, request: _Request, payload: bytes) -> list[_Refused]:
        """Delivers spans, one by one where it must be; what the server does not take.

        Raises:
            Away: Nobody is there who could take or refuse them.
        """
        try:
            await self._transport.deliver(_PATH, payload, patience_s=0.0)
        except (AccessError, StoreUnavailable, StrangeAnswer) as error:  # it says nothing about the spans
            raise Away(str(error)) from error
        except (AglError, TypeError, ValueError) as error:
            spans = request.spans
            if len(spans) == 1:
                return [_Refused(str(error), spans[0], request.token)]
            middle = len(spans) // 2
            refused: list[_Refused] = []
            for half in (_Request(spans[:middle], request.token), _Request(spans[middle:], request.token)):
                refused += await self._deliver(half, msgspec.msgpack.encode(half))
            return refused
        return []

    def _put_aside(self, refused: Sequence[_Refused | _Unreadable]) -> None:
        """Keeps what the server does not take, and says so: it is never lost silently."""
        place = self._address.spool_folder / "refused.jsonl"
        for one in refused:
            try:
                put_aside(place, msgspec.json.encode(one) + b"\n")
            except OSError as error:
                raise Away(f"refused spans cannot be kept in {str(place)!r}: {error}") from error
        if refused:
            _log.error(
                "%d spans are refused (%s); they are kept in %s", len(refused), refused[0].reason, place
            )


def _parts(spans: Sequence[Span], token: int | None) -> list[tuple[Sequence[Span], bytes]]:
    """Spans in calls that are not too large, each with its request."""
    payload = encoded(_PATH, {"spans": spans, "token": token})
    if len(payload) <= _BODY_BYTES or len(spans) < 2:
        return [(spans, payload)]
    size = math.ceil(len(spans) / math.ceil(len(payload) / _BODY_BYTES))
    pieces = (spans[at : at + size] for at in range(0, len(spans), size))
    return [part for piece in pieces for part in _parts(piece, token)]
