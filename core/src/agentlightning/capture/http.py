"""What adapters of SDKs share that ride on HTTPX: listening to responses, and connections to endpoints.

The SDKs' stream objects read their HTTP response through `iter_bytes` / `aiter_bytes` and end it with `close` /
`aclose`. Those methods are shadowed on the one response object, so that every way to read a stream is seen, and the
stream object itself stays what it was.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import msgspec
from opentelemetry.trace import SpanContext

from agentlightning.capture._context import Endpoint, RolloutContext, current_rollout
from agentlightning.types import Json

__all__ = ["Pools", "Response", "bound_headers", "decode", "events", "tap", "trusted"]

LONGEST: Final = 32 * 2**20
"""Bytes of one stream that are kept for the span."""


ROLLOUTS_EACH: Final = 2
"""Rollouts under way that share a pool of connections. With fewer, calls are cheaper."""

MOST_POOLS: Final = 64
"""Pools of an event loop, or of all threads."""


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


class _Closing(Protocol):
    def close(self) -> None: ...


class _AsyncClosing(Protocol):
    async def aclose(self) -> None: ...


Http = TypeVar("Http", bound=_Closing)
AsyncHttp = TypeVar("AsyncHttp", bound=_AsyncClosing)


Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class _Pool(Generic[Client]):
    """Connections, and the rollouts that use them."""

    client: Client
    rollouts: WeakSet[RolloutContext] = field(default_factory=WeakSet)


class _Crowd(Generic[Client]):
    """Pools of connections, each for a few of the rollouts that are under way. Not safe from several threads."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._pools: list[_Pool[Client]] = []

    def pool(self) -> Client:
        """The first pool with room for the current rollout; a new one if none has, and there are not too many."""
        context = current_rollout()
        found = next((pool for pool in self._pools if context in pool.rollouts), None)
        found = found or next((pool for pool in self._pools if len(pool.rollouts) < ROLLOUTS_EACH), None)
        if found is None and len(self._pools) < MOST_POOLS:
            found = _Pool(self._make())
            self._pools.append(found)
        found = found or min(self._pools, key=lambda pool: len(pool.rollouts))
        if context is not None:
            found.rollouts.add(context)
        return found.client

    def clients(self) -> list[Client]:
        """Those that were made."""
        return [pool.client for pool in self._pools]


@dataclass(frozen=True, slots=True)
class _OfLoop(Generic[AsyncHttp]):
    """The pools of an event loop, and what closes them when it ends."""

    crowd: _Crowd[AsyncHttp]
    holder: AsyncGenerator[None, None]


@cache
def trusted(client: type) -> ssl.SSLContext:
    """The certificates that HTTPX trusts whatever the environment says, read once for all clients.

    Args:
        client: A kind of client; which HTTPX it is of depends on the SDK's version.
    """
    library = next(
        name for kind in client.__mro__ if (name := kind.__module__.partition(".")[0]).startswith("httpx")
    )
    context: ssl.SSLContext = sys.modules[library].create_ssl_context(trust_env=False)
    return context


class Pools(Generic[Http, AsyncHttp]):
    """Pools of connections for all threads, and others for each event loop.

    An async client of the agent may outlive an event loop, its connections cannot: training and evaluating afterwards
    are two loops. There are several pools because HTTPX asks each idle connection of a pool, at the beginning and end
    of each call, whether it still holds: in one pool a call costs the more, the more rollouts there are.

    Args:
        make: Makes an HTTP client for threads. Proxies of the environment are for the world outside, not for endpoints.
        make_async: Makes one for an event loop.
    """

    def __init__(self, make: Callable[[], Http], make_async: Callable[[], AsyncHttp]) -> None:
        self._make = make
        self._make_async = make_async
        self._lock = threading.Lock()
        self._threads = _Crowd(make)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop[AsyncHttp]] = WeakKeyDictionary()

    def of_threads(self) -> Http:
        """Connections of the current rollout's sync clients."""
        with self._lock:
            return self._threads.pool()

    def of_loop(self) -> AsyncHttp:
        """Connections of its async clients in the running event loop; they are closed when that ends."""
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self._loops.get(loop)
            if found is None:
                crowd = _Crowd(self._make_async)
                found = self._loops[loop] = _OfLoop(crowd, _held(crowd))
                # Its first step makes the loop know the generator, which it closes before it ends.
                with suppress(StopIteration):
                    found.holder.asend(None).send(None)
            return found.crowd.pool()

    def close(self) -> None:
        """Lets go of the connections of threads."""
        with self._lock:
            threads, self._threads = self._threads, _Crowd(self._make)
        for client in threads.clients():
            client.close()


async def _held(crowd: _Crowd[AsyncHttp]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        for client in crowd.clients():
            await client.aclose()


_CREDENTIAL: Final = re.compile("auth|cookie|key|secret|token|organization|project", re.IGNORECASE)
_HARMLESS: Final = frozenset({"idempotency-key"})


def bound_headers(given: object, endpoint: Endpoint, *, span_context: SpanContext) -> dict[str, str]:
    """The headers of a call as it goes to an endpoint: its key, the span it belongs to, and nobody else's secret.

    Args:
        given: The call's own headers, if it has a mapping of them.
        endpoint: Whose key it gets.
        span_context: The span that the gateway's becomes a child of.
    """
    headers = dict(given) if isinstance(given, Mapping) else {}
    headers = {name: value for name, value in headers.items() if not _secret(str(name))}
    headers["Authorization"] = f"Bearer {endpoint.api_key}"
    if span_context.is_valid:
        flags = span_context.trace_flags
        headers["traceparent"] = f"00-{span_context.trace_id:032x}-{span_context.span_id:016x}-{flags:02x}"
    return headers


def _secret(name: str) -> bool:
    return name.lower() not in _HARMLESS and _CREDENTIAL.search(name) is not None


def events(data: bytes) -> Iterator[dict[str, Json]]:
    """The JSON of each server-sent event; keep-alives, comments and `[DONE]` carry none."""
    lines: list[bytes] = []
    for line in [*data.splitlines(), b""]:
        if line.startswith(b"data:"):
            lines.append(line[5:].strip())
        elif not line and lines:
            body = decode(b"\n".join(lines))
            lines = []
            if body:
                yield body


def decode(data: bytes) -> dict[str, Json]:
    """A JSON object; empty for what is none, such as what was cut off, or `[DONE]`."""
    try:
        return msgspec.json.decode(data, type=dict[str, Json])
    except (msgspec.MsgspecError, UnicodeError):
        return {}
