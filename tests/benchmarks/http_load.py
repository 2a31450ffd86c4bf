"""A closed loop of keep-alive HTTP/1.1 clients that cost little, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Reply:
    """A whole answer, and how long it took in seconds."""

    status: int
    body: bytes
    latency_s: float


def request(
    method: str, path: str, body: bytes = b"", *, content_type: str = "application/json", key: str = ""
) -> bytes:
    """A request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    if method != "GET":
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._whole: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(ConnectionError(f"the server closed the connection: {exc!r}"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        _, named, length = head.partition(b"\r\ncontent-length:")
        if not named:
            raise ValueError(f"an answer without a length cannot be read: {head!r}")
        size = int(length.partition(b"\r\n")[0])
        if len(self._received) >= end + 4 + size and self._whole is not None and not self._whole.done():
            self._whole.set_result((int(head[9:12]), bytes(self._received[end + 4 :])))
            self._received.clear()

    async def exchange(self, raw: bytes) -> tuple[int, bytes]:
        self._whole = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return await self._whole

    def close(self) -> None:
        self._transport.close()


async def exchange_all(port: int, requests: list[bytes], *, clients: int) -> list[Reply]:
    """Sends all requests, each client its next one when its last is answered; the answers in their order.

    Raises:
        AssertionError: An answer was not a success.
    """
    replies: dict[int, Reply] = {}
    left = iter(enumerate(requests))
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(_Connection, HOST, port))[1] for _ in range(clients)]

    async def work(connection: _Connection) -> None:
        for index, raw in left:
            started = time.perf_counter()
            status, body = await connection.exchange(raw)
            replies[index] = Reply(status, body, time.perf_counter() - started)

    try:
        await asyncio.gather(*map(work, connections))
    finally:
        for connection in connections:
            connection.close()
    failed = [reply for reply in replies.values() if not 200 <= reply.status < 300]
    if failed:
        raise AssertionError(f"{len(failed)} of {len(requests)} requests failed, such as {failed[0]!r}")
    return [replies[index] for index in range(len(requests))]
