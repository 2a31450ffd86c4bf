"""The little HTTP/1.1 that a scripted server needs: read a request, write a response."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from agentlightning.types import Json

_REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}
LAST_CHUNK = b"0\r\n\r\n"


class ScriptedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it arrived.

    Attributes:
        headers: By lower-case name; of repeated ones the last.
        body: Exact bytes.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> dict[str, Json]:
        """The body, decoded. Raises `msgspec.ValidationError` if it is no JSON object."""
        return msgspec.json.decode(self.body, type=dict[str, Json])


class WatchedReader(asyncio.StreamReader):
    """A stream reader that tells, without reading, that the client has left."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=2**26, loop=loop)
        self.left = asyncio.Event()

    def feed_eof(self) -> None:
        """Called by the transport at the end of the client's side."""
        super().feed_eof()
        self.left.set()

    def set_exception(self, exc: Exception) -> None:
        """Called by the transport when the connection breaks."""
        super().set_exception(exc)
        self.left.set()


async def read_request(reader: asyncio.StreamReader) -> ScriptedRequest | None:
    """The next request of a connection; None when the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.split(":", 1) for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    try:
        body = await _read_body(reader, headers)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return ScriptedRequest(method=method, path=path, headers=headers, body=body)


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def head(
    status: int, content_type: str, *, length: int | None, extra: Mapping[str, str] | None = None
) -> bytes:
    """Status line and headers; without a length the body is chunked."""
    framing = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    headers = {"Content-Type": content_type, **framing, **(extra or {})}
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}",
        *(f"{name}: {headers[name]}" for name in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
