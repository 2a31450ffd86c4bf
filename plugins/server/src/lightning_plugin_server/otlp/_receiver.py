"""Takes requests of OTLP/HTTP: reads, admits, stores, and says what was not taken."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from agentlightning.capture.otlp import JSON, PROTOBUF, Decoded, MalformedTelemetry, Reading, Rejection
from agentlightning.errors import StoreError
from agentlightning.store import Store
from lightning_plugin_server._endpoint import Call
from lightning_plugin_server._refusal import RETRY_SOON, Refusal, refusal_of
from lightning_plugin_server.otlp._admission import admitted, reading_for
from lightning_plugin_server.otlp._answers import Signal, accepted, refused
from lightning_plugin_server.otlp._storing import Storing

_log = logging.getLogger(__name__)
_INLINE_BYTES: Final = 128 * 1024
"""Bodies up to this size are decoded at once, in about a millisecond; larger ones in a thread."""
_MOST_BYTES: Final = 128 * 2**20
"""Bodies that are decoded and stored, or wait for it, at once."""
_MOST_OBJECTS: Final = 2_000_000


class Decode(Protocol):
    """`decode_traces` or `decode_logs`."""

    def __call__(self, body: bytes, content_type: str, *, reading: Reading) -> Decoded:
        """What a body has."""
        ...


class Receiver:
    """The endpoint of one signal.

    Args:
        store: Where spans go.
        decode: Reads a body.
        signal: What is received.
        threads: How many large bodies are decoded at once: as objects they may need many times their size.
    """

    def __init__(self, store: Store, *, decode: Decode, signal: Signal, threads: asyncio.Semaphore) -> None:
        self._store = store
        self._decode = decode
        self._signal = signal
        self._threads = threads
        self._bytes = 0

    async def handle(self, call: Call) -> None:
        """Answers a call."""
        content_type = PROTOBUF if call.content_type == PROTOBUF else JSON
        try:
            rejected = await self._take(call)
        except Refusal as refusal:
            await self._refuse(call, refusal, content_type)
        except (MalformedTelemetry, StoreError) as error:
            answer = refusal_of(error)
            if answer is None:
                raise
            await self._refuse(call, answer, content_type)
        else:
            body = accepted(rejected, signal=self._signal, content_type=content_type)
            await call.respond(200, body, content_type=content_type.encode())

    async def _take(self, call: Call) -> list[Rejection]:
        if call.content_type not in {PROTOBUF, JSON}:
            raise Refusal(415, f"content-type {call.content_type!r:.100}; send {PROTOBUF} or {JSON}")
        reading = reading_for(call.credential)
        body = await call.body()
        if call.content_type == JSON and body.count(b"{") > _MOST_OBJECTS:
            raise Refusal(413, f"the body has more than {_MOST_OBJECTS} objects; send less at once")
        if self._bytes and self._bytes + len(body) > _MOST_BYTES:
            raise Refusal(429, "as much telemetry as this server takes is on its way", headers=RETRY_SOON)
        self._bytes += len(body)
        try:
            decoded = await self._decoded(body, call.content_type, reading)
            spans, rejected = admitted(decoded, call.credential)
            storing = Storing(self._store)
            await storing.add(spans)
        finally:
            self._bytes -= len(body)
        rejected += storing.rejected
        if rejected:
            # reasons may quote what was sent, and that may be a secret: they go to the sender alone
            _log.info("%d %s were rejected; the sender was told why", len(rejected), self._signal.items)
        return rejected

    async def _decoded(self, body: bytes, content_type: str, reading: Reading) -> Decoded:
        if len(body) <= _INLINE_BYTES:
            return self._decode(body, content_type, reading=reading)
        async with self._threads:
            return await asyncio.to_thread(self._decode, body, content_type, reading=reading)

    async def _refuse(self, call: Call, refusal: Refusal, content_type: str) -> None:
        body = refused(refusal, content_type=content_type)
        await call.respond(
            refusal.status, body, content_type=content_type.encode(), headers=tuple(refusal.headers)
        )
