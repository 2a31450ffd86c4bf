"""Reads the body of a request: never more than the limit, whatever it is compressed with."""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from agentlightning.apps import Receive
from lightning_plugin_server._refusal import Refusal

_WINDOWS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS | 32}
_PIECE: Final = 2**20


class ClientGone(Exception):
    """The client left before it was answered; there is nobody to tell."""


class _Sink(Protocol):
    def feed(self, data: bytes) -> None: ...

    def close(self) -> bytes: ...


async def read_body(receive: Receive, *, encoding: str, length: str, limit: int) -> bytes:
    """The whole body, decompressed.

    Args:
        encoding: The header `Content-Encoding`.
        length: The header `Content-Length`, maybe empty.
        limit: Most bytes, before and after decompression.

    Raises:
        Refusal: 413 too large, 415 an unknown encoding, 400 not what its encoding says.
        ClientGone: The client left before it was complete.
    """
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    sink: _Sink = _plain_or_inflated(encoding.strip().lower(), limit)
    while not await _take(receive, sink):
        pass
    return sink.close()


async def _take(receive: Receive, sink: _Sink) -> bool:
    """Takes the next part; whether it was the last."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    part = message.get("body")
    if isinstance(part, bytes) and part:
        sink.feed(part)
    return not message.get("more_body")


def _plain_or_inflated(encoding: str, limit: int) -> _Sink:
    if encoding in {"", "identity"}:
        return _Plain(limit)
    if encoding not in _WINDOWS:
        raise Refusal(415, f"content-encoding {encoding!r}; send gzip, deflate or identity")
    return _Inflated(encoding, limit)


class _Plain:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise _too_large(self._limit)
        self._parts.append(data)

    def close(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


class _Inflated:
    """Inflates piece by piece: a bomb is found when it passes the limit, not when it is in memory."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding = encoding
        self._plain = _Plain(limit)
        self._inflater = zlib.decompressobj(_WINDOWS[encoding])
        self._limit = limit
        self._fed = 0

    def feed(self, data: bytes) -> None:
        self._fed += len(data)
        if self._fed > self._limit:
            raise _too_large(self._limit)
        try:
            while data:
                self._plain.feed(self._inflater.decompress(data, _PIECE))
                data = self._inflater.unconsumed_tail
        except zlib.error as error:
            raise self._broken(str(error)) from error
        if self._inflater.unused_data:
            raise self._broken("there is more after its end")

    def close(self) -> bytes:
        if self._fed and not self._inflater.eof:
            raise self._broken("it is cut short")
        return self._plain.close()

    def _broken(self, why: str) -> Refusal:
        return Refusal(400, f"the body is not what content-encoding {self._encoding!r} says: {why}")


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413, f"the body has more than {limit} bytes, which is the most this server takes; send less at once"
    )
