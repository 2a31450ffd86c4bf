"""What everything that serves HTTP here shares: a listening socket, answers in one piece, and no other protocol."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any, Final

__all__ = ["BACKLOG", "JoinedTransport", "OffersDeclined", "bind"]

BACKLOG: Final = 2048
"""Connections that may wait to be accepted."""

_OFFER: Final = frozenset({b"connection", b"http2-settings", b"upgrade"})


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: The address cannot be bound; its `strerror` says in plain words if the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only on sockets that name TCP; left on, it costs each answer 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, "the port is taken") from error
        raise
    return listener


class JoinedTransport:
    """Sends the head of an answer with the first part of its body: one system call and one packet.

    It holds the head until the body comes, at the longest until the loop's next turn.
    """

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


class OffersDeclined:
    """For uvicorn's protocol on httptools: what offers another protocol, as Java's client does, is served as HTTP/1.1.

    What the parser calls at the end of a head, or of a request, is not meant while `offers`: the head is read again.

    Attributes:
        offered: What the parser raises behind the head of an offer, with the place; `httptools.HttpParserUpgrade`.
    """

    offered: type[Exception]
    parser: Any
    headers: list[tuple[bytes, bytes]]
    url: bytes

    @property
    def offers(self) -> bool:
        """Whether the head that is read offers another protocol."""
        return bool(self.parser.should_upgrade())

    def feed(self, data: bytes) -> None:
        """Parses what came. Raises what the parser raises for what is no HTTP."""
        while data:
            try:
                self.parser.feed_data(data)
            except self.offered as offer:
                self._decline()
                data = data[offer.args[0] :]
            else:
                return

    def _decline(self) -> None:
        """Reads the head again, without the offer."""
        lines = [b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url)]
        lines += [b"%s: %s\r\n" % header for header in self.headers if header[0] not in _OFFER]
        self.parser = type(self.parser)(self)
        self.parser.feed_data(b"".join(lines) + b"\r\n")
