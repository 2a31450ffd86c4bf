"""A transport that sends the head of an answer with the first part of its body: one system call and one packet."""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedTransport:
    """Holds the head of an answer until the body comes, at the longest until the loop's next turn."""

    __slots__ = ("_held", "_loop", "_transport", "_write")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._write = transport.write
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Sends data, or holds it if it is a head."""
        if self._held:
            self._write(self._held + data)
            self._held = b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._write(data)

    def close(self) -> None:
        """Closes when everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            self._write(self._held)
            self._held = b""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the transport has it
        return getattr(self._transport, name)
