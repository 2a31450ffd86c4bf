"""One HTTP request and its response, with the client's departure as an event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from lightning_plugin_gateway._alarms import Alarm, Alarms
from lightning_plugin_gateway._asgi import Message, Receive, Scope, Send
from lightning_plugin_gateway._errors import ApiError, bad_request

_JSON = (b"content-type", b"application/json")
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_BODY_TIMEOUT_S: Final = 60.0


class Exchange:
    """What a handler reads from and writes to.

    Attributes:
        gone: The client has left.
        started: The response's head has been sent.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, alarms: Alarms) -> None:
        headers = scope["headers"]
        self._headers: dict[bytes, bytes] = dict(headers) if isinstance(headers, list) else {}
        self._receive = receive
        self._send = send
        self._alarms = alarms
        self._watching: Alarm | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False
        self.started = False

    def header(self, name: bytes) -> str:
        """A request header by its lower-case name; empty if it is missing."""
        return self._headers.get(name, b"").decode("latin-1")

    def headers(self, names: Sequence[bytes]) -> dict[str, str]:
        """Those of the named request headers that are there."""
        return {name.decode(): self.header(name) for name in names if name in self._headers}

    @property
    def retried(self) -> bool:
        """An SDK sends this request again because an earlier try failed."""
        count = self.header(b"x-stainless-retry-count")
        return count.isdecimal() and bool(count.strip("0"))

    async def body(self, *, limit: int) -> bytes:
        """The request's body.

        Raises:
            ApiError: 413 while reading if it is larger than `limit` bytes; 400 if it is compressed or too slow.
        """
        if self.header(b"content-encoding") not in ("", "identity"):
            raise bad_request(
                f"content-encoding {self.header(b'content-encoding')!r}; send the body uncompressed"
            )
        try:
            with self._alarms.timeout(self._alarms.loop.time() + _BODY_TIMEOUT_S):
                return await self._read(limit)
        except TimeoutError:
            raise bad_request(f"the body did not arrive within {_BODY_TIMEOUT_S} s") from None

    async def _read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise bad_request("the client left before its body was complete")
            part = message.get("body")
            if isinstance(part, bytes) and part:
                size += len(part)
                parts.append(part)
            if size > limit:
                found = f"the body has more than {limit} bytes (`max_body_bytes`)"
                raise ApiError(413, found, fault="body_too_large", final=True)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def watch(self, leave: Callable[[], None]) -> None:
        """From now on, or very soon, calls `leave` when the client leaves."""
        self._watching = self._alarms.at_next_tick(lambda: self._begin_watching(leave))

    def unwatch(self) -> None:
        """Ends what `watch` began."""
        if self._watching:
            self._watching.cancel()
            self._watching = None
        if self._watcher:
            self._watcher.cancel()
            self._watcher = None

    def _begin_watching(self, leave: Callable[[], None]) -> None:
        """Most calls that answer at once are over before: they are spared a task."""
        self._watching = None
        self._watcher = asyncio.create_task(self._watch(leave))

    async def _watch(self, leave: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        leave()

    async def reply(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Sends a whole response."""
        length = (b"content-length", str(len(body)).encode())
        await self._head(status, [_JSON, length, *(headers or [])])
        await self._send({"type": "http.response.body", "body": body})

    async def start_events(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Sends the head of a stream of server-sent events."""
        await self._head(200, [*_EVENTS, *headers])

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Sends a part of a stream."""
        message: Message = {"type": "http.response.body", "body": data, "more_body": not last}
        await self._send(message)

    async def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
