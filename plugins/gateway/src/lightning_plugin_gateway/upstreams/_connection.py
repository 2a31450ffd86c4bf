"""HTTP/1.1 to one server: a request in one write, its answer part by part, and connections that are used again.

A request goes through here for every call, so it is kept to what a gateway needs: no redirects, no cookies, no proxies,
no compression.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

import httptools

from lightning_plugin_gateway.upstreams._address import Address

_KEPT_ALIVE_S: Final = 15.0
_LARGEST_HEAD: Final = 2**16
_HIGH_WATER: Final = 2**19
_FIXED: Final = (
    "Accept-Encoding: identity\r\nContent-Type: application/json\r\nUser-Agent: agentlightning\r\n"
)
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~-._"


class ConnectionBroken(Exception):
    """A connection ended, or what came over it is not HTTP."""


class Unreachable(ConnectionBroken):
    """A connection could not be made."""


class Response:
    """An answer: its head once `begin` has returned, and then its body. One task reads it.

    Attributes:
        status: HTTP status.
        headers: By lower-case name; of repeated ones the last.
    """

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._connection = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._complete = False
        self._error: ConnectionBroken | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_type(self) -> str:
        """The type of its body, without parameters; empty if it does not say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def at_eof(self) -> bool:
        """Its body was read to its end."""
        return self._complete and not self._parts

    async def begin(self) -> None:
        """Returns when its head is there. Raises `ConnectionBroken`."""
        while not self.status:
            await self._wait()

    @property
    def waits(self) -> bool:
        """There is nothing to read yet."""
        return not self._parts and not self._complete

    async def readany(self) -> bytes:
        """What has come since the last, waiting for some; nothing at its end. Raises `ConnectionBroken`."""
        while self.waits:
            await self._wait()
        return self.take_all()

    def take_all(self) -> bytes:
        """What has come since the last."""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        self._size = 0
        self._connection.resume()
        return data

    def release(self) -> None:
        """Gives the connection back, if its answer is over; else ends it."""
        self._connection.rest(self)

    def close(self) -> None:
        """Ends the connection, and the waiting for what it would have brought."""
        self.end(ConnectionBroken("closed here"))
        self._connection.give_up(self)

    def take_head(self, status: int, headers: dict[str, str]) -> None:
        """Its head has come."""
        self.status, self.headers = status, headers
        self._wake()

    def take(self, data: bytes) -> bool:
        """A part of its body has come; whether there is enough for now."""
        self._parts.append(data)
        self._size += len(data)
        self._wake()
        return self._size > _HIGH_WATER

    def end(self, error: ConnectionBroken | None = None) -> None:
        """It is over, or will not be."""
        if not self._complete and self._error is None:
            self._complete, self._error = error is None, error
        self._wake()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        if self._complete and not self.status:
            raise ConnectionBroken("no head")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, pool: Connections) -> None:
        self.idle_since = 0.0
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response: Response | None = None
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._in_body = False
        self._over = True
        self._keep_alive = True
        self._paused = False

    @property
    def alive(self) -> bool:
        """It can take a request."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> Response:
        """Sends a request."""
        self._response = response = Response(self)
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._head_size, self._in_body, self._over = {}, 0, False, False
        if self._transport is None or self._transport.is_closing():
            response.end(ConnectionBroken("closed before it was used"))
        else:
            self._transport.write(request)
        return response

    def resume(self) -> None:
        """Reads on."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def rest(self, response: Response) -> None:
        """An answer was read: it waits for another request, if both sides are ready for that."""
        if self._response is not response:  # it serves another already
            return
        self._response = None
        if self._over and self._keep_alive and self.alive:
            self.resume()
            self._pool.put_back(self)
        else:
            self.abort()

    def give_up(self, response: Response) -> None:
        """Nobody waits for an answer any more."""
        if self._response is response:
            self.abort()

    def abort(self) -> None:
        """Ends it at once."""
        self._response = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._transport = None
        if self._response is None or self._over:
            return
        if exc is None and self._in_body and not self._framed:
            self._response.end()  # the end of the connection is the end of such a body
        else:
            self._response.end(ConnectionBroken(type(exc).__name__ if exc else "ended early"))

    def data_received(self, data: bytes) -> None:
        """A part of an answer has come."""
        if self._parser is None or self._over:
            self.abort()  # nobody asked
            return
        if not self._in_body:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(f"no HTTP: {type(error).__name__}")
        else:
            if self._head_size > _LARGEST_HEAD and not self._in_body:
                self._refuse("its head does not end")

    def _refuse(self, reason: str) -> None:
        self._over, self._keep_alive = True, False
        if self._response is not None:
            self._response.end(ConnectionBroken(reason))
        if self._transport is not None:
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which nobody needs."""
        if not self._in_body:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole; those with a status below 200 only announce another."""
        assert self._parser is not None  # noqa: S101 - its callback
        status = self._parser.get_status_code()
        if self._over:
            self._keep_alive = False  # a second answer, which nobody asked for
            return
        if status < 200:
            self._headers = {}
            return
        self._in_body = True
        if self._response is not None:
            self._response.take_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        if self._over:
            return
        if self._response is not None and self._response.take(data) and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is over."""
        if not self._in_body or self._over or self._parser is None:
            return
        self._over = True
        self._keep_alive = self._parser.should_keep_alive()
        if self._response is not None:
            self._response.end()

    @property
    def _framed(self) -> bool:
        return "content-length" in self._headers or "transfer-encoding" in self._headers


class Connections:
    """Connections to one server. Belongs to one event loop."""

    def __init__(self, address: Address, *, connect_s: float) -> None:
        """Prepares connections.

        Args:
            address: Of the server.
            connect_s: Longest time to connect.
        """
        parts = urlsplit(address.base)
        self._connect_s = connect_s
        self._socket = address.socket
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
        self._path = quote(parts.path, safe=_PATH_SAFE)
        self._tail = f" HTTP/1.1\r\nHost: {host}\r\n{_FIXED}"
        self._tls: ssl.SSLContext | None = None
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()

    async def post(self, path: str, payload: bytes, *, headers: Mapping[str, str]) -> Response:
        """An answer whose head has come. Raises `ConnectionBroken`."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST {self._path}{path}{self._tail}{lines}Content-Length: {len(payload)}\r\n\r\n"
        request = head.encode("latin-1") + payload
        connection = self._rested() or await self._made()
        response = connection.send(request)
        try:
            await response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def put_back(self, connection: Connection) -> None:
        """A connection waits for its next request."""
        connection.idle_since = now = time.monotonic()
        self._idle.append(connection)
        while self._idle and now - self._idle[0].idle_since > _KEPT_ALIVE_S:
            self._idle.popleft().abort()

    async def close(self) -> None:
        """Ends all connections."""
        self._idle.clear()
        for connection in tuple(self._all):
            connection.abort()
        self._all.clear()
        await asyncio.sleep(0)  # they are told in the loop's next turn

    def _rested(self) -> Connection | None:
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.alive and now - connection.idle_since <= _KEPT_ALIVE_S:
                return connection
            connection.abort()
        return None

    async def _made(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._secure and self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        try:
            async with asyncio.timeout(self._connect_s):
                if self._socket:
                    _, connection = await loop.create_unix_connection(lambda: Connection(self), self._socket)
                else:
                    _, connection = await loop.create_connection(
                        lambda: Connection(self),
                        self._host,
                        self._port,
                        ssl=self._tls,
                        **_eyes(loop),
                    )
        except (OSError, TimeoutError) as error:
            raise Unreachable(type(error).__name__) from error
        self._all = {one for one in self._all if one.alive}
        self._all.add(connection)
        return connection


def _eyes(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Several addresses of a host are tried nearly at once, by the loops that can."""
    return {"happy_eyeballs_delay": 0.25} if isinstance(loop, asyncio.BaseEventLoop) else {}
