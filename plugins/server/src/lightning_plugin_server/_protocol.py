"""What uvicorn's HTTP protocol leaves open: limits on heads and stalled connections, and answers in one piece."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from agentlightning.serving import JoinedTransport, OffersDeclined
from lightning_plugin_server._refusal import Refusal

MAX_HEAD: Final = 64 * 2**10
"""Most bytes of a request's line and headers."""
_LINGER_S: Final = 1.0
_PIECE: Final = 256 * 2**10  # what asyncio reads at once


class BoundedProtocol(OffersDeclined, HttpToolsProtocol):
    """Refuses heads that do not end, and counts what a request brings, so that `sweep` can end what stalls."""

    offered = httptools.HttpParserUpgrade
    max_message: int = 2**63
    timeout_s: float = 60.0

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as uvicorn calls it
        super().__init__(*args, **options)
        self._refused = False
        self._in_head = True
        self._received = 0
        self._began_at: float | None = None
        self._unsent = 0
        self._unsent_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        joined = JoinedTransport(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", joined))
        self._began_at = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """A part of a request came; maybe the rest of one, and the next."""
        if self._refused:
            return
        self._received += len(data)
        self._unset_keepalive_if_required()
        try:
            self.feed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._in_head and self._received > MAX_HEAD:
            self._refuse(431, f"the line and headers of a request may have {MAX_HEAD} bytes")
        elif self._received > self.max_message:
            self._refuse(413, f"a request may have {self.max_message} bytes as it is sent")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._began_at = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header came; trailers of the body are none."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if not self.offers:
            self._in_head = False
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete."""
        if not self.offers:
            self._in_head = True
            self._received = 0
            self._began_at = None
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP."""
        self._refuse(400, msg)

    def sweep(self, now: float) -> None:
        """Ends the connection if its request does not arrive, or its answer is not taken."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:
            self._unsent, self._unsent_since = unsent, now
        if now - self._unsent_since > self.timeout_s:
            self.transport.abort()
        elif self._began_at is not None and now - self._began_at > self.timeout_s:
            self._refuse(408, f"the request did not arrive within {self.timeout_s:g} s")

    def _refuse(self, status: int, reason: str) -> None:
        """Ends the connection, and says why unless an answer is on its way or was given already.

        What still comes is read for a moment: a connection closed on it is reset, and the answer lost.
        """
        if self._refused or self.transport.is_closing():
            return
        cycle = cast("RequestResponseCycle | None", self.cycle)
        idle = cycle is None or cycle.response_complete
        if self._in_head if idle else cycle is not None and cycle.more_body and not cycle.response_started:
            if cycle is not None:  # whoever reads its body is told that there is nobody any more
                cycle.disconnected = True
                cycle.message_event.set()
            self._refused = True
            body = Refusal(status, reason).body
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(body) + body)
            self.transport.write_eof()
            self.loop.call_later(_LINGER_S, self.transport.close)
        else:
            self.transport.close()


def protocol(*, max_body_bytes: int, timeout_s: float) -> type[BoundedProtocol]:
    """The protocol with its limits, as a class: uvicorn makes one for each connection."""
    limits = {"max_message": 4 * max_body_bytes + _PIECE, "timeout_s": timeout_s}
    return type("Protocol", (BoundedProtocol,), limits)
