"""Listens to a streamed response without touching what its reader gets.

The SDK's stream objects read their HTTP response through `iter_bytes` / `aiter_bytes` and end it with `close` /
`aclose`. Those methods are shadowed on the one response object, so that every way to read a stream is seen, and the
stream object itself stays what it was.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Final, Protocol

LONGEST: Final = 32 * 2**20
"""Bytes of one stream that are kept for the span."""


class Response(Protocol):
    """What is used of `httpx2.Response`, or of `httpx.Response` in SDK 2."""

    stream: object
    iter_bytes: Callable[..., Iterator[bytes]]
    close: Callable[[], None]
    aiter_bytes: Callable[..., AsyncIterator[bytes]]
    aclose: Callable[[], Awaitable[None]]


Ended = Callable[[bytes, BaseException | None], None]
"""Takes the bytes that were read, and the error that ended the stream, if one did."""


class _Recording:
    """What was heard. It must not know the response: it is told when the response is forgotten."""

    def __init__(self, ended: Ended, *, failed: Callable[[bytes], bool]) -> None:
        self._ended: Ended | None = ended
        self._failed = failed
        self._chunks: list[bytes] = []
        self._room = LONGEST
        self.advancing = False

    def hear(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room >= 0:
            self._chunks.append(data)
        if b'"error"' in data and self._failed(b"".join(self._chunks)):
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(b"".join(self._chunks), error)

    def closed(self) -> None:
        # A response closes itself while its last bytes are still being decoded: those come first.
        if not self.advancing:
            self.end()


def tap(response: Response, ended: Ended, *, failed: Callable[[bytes], bool]) -> None:
    """Calls `ended` once, when the response was read to its end, closed, failed, or is forgotten.

    Args:
        response: What is read.
        ended: Gets the bytes that were read, and the error that ended them.
        failed: Whether these bytes tell of a failure. Early releases of the SDK raise it and leave the response open.
    """
    recording = _Recording(ended, failed=failed)
    if isinstance(response.stream, Iterable):
        response.iter_bytes = _hear(response.iter_bytes, recording)
        response.close = _close(response.close, recording)
    else:
        response.aiter_bytes = _hear_async(response.aiter_bytes, recording)
        response.aclose = _close_async(response.aclose, recording)
    weakref.finalize(response, recording.end).atexit = False


def _hear(read: Callable[..., Iterator[bytes]], recording: _Recording) -> Callable[..., Iterator[bytes]]:
    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        chunks = read(chunk_size)
        while True:
            recording.advancing = True
            try:
                data = next(chunks)
            except StopIteration:
                break
            except BaseException as error:
                recording.end(error)
                raise
            finally:
                recording.advancing = False
            recording.hear(data)
            yield data
        recording.end()

    return iter_bytes


def _hear_async(
    read: Callable[..., AsyncIterator[bytes]], recording: _Recording
) -> Callable[..., AsyncIterator[bytes]]:
    async def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        chunks = read(chunk_size)
        while True:
            recording.advancing = True
            try:
                data = await anext(chunks)
            except StopAsyncIteration:
                break
            except BaseException as error:
                recording.end(error)
                raise
            finally:
                recording.advancing = False
            recording.hear(data)
            yield data
        recording.end()

    return aiter_bytes


def _close(close: Callable[[], None], recording: _Recording) -> Callable[[], None]:
    def closing() -> None:
        try:
            close()
        finally:
            recording.closed()

    return closing


def _close_async(
    close: Callable[[], Awaitable[None]], recording: _Recording
) -> Callable[[], Awaitable[None]]:
    async def closing() -> None:
        try:
            await close()
        finally:
            recording.closed()

    return closing
