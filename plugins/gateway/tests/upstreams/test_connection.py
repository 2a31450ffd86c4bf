"""HTTP/1.1 as servers write it: whole, in pieces, chunked, to the end of the connection, and wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway.upstreams._address import parse_address
from lightning_plugin_gateway.upstreams._connection import (
    ConnectionBroken,
    Connections,
    Response,
    Unreachable,
)

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
)
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH


@asynccontextmanager
async def serving(answer: Answering) -> AsyncIterator[Connections]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections(parse_address(f"http://127.0.0.1:{port}/v1"), connect_s=5.0)
    try:
        yield connections
    finally:
        await connections.close()
        server.close()
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(size)


def always(sent: bytes, *, then_close: bool = False, step: int = 0) -> Answering:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for start in range(0, len(sent), step or len(sent)):
                writer.write(sent[start : start + (step or len(sent))])
                await writer.drain()
                await asyncio.sleep(0)
            if then_close:
                return

    return answer


async def whole(response: Response) -> bytes:
    parts = []
    while part := await response.readany():
        parts.append(part)
    response.release()
    return b"".join(parts)


async def test_a_request_is_what_was_asked_for_and_nothing_else() -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(LENGTH)

    async with serving(answer) as connections:
        assert (
            await whole(await connections.post("/x", b"{}", headers={"authorization": "Bearer k"}))
            == b"hello"
        )
    (head, _, body) = seen[0].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert (first, body) == (b"POST /v1/x HTTP/1.1", b"{}")
    assert {line.partition(b":")[0].lower() for line in lines} == {
        b"host", b"accept-encoding", b"content-type", b"user-agent", b"authorization", b"content-length",
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(sent=st.sampled_from([LENGTH, CHUNKED, CONTINUED]), step=st.integers(1, 40))
def test_an_answer_reads_the_same_however_it_is_cut(sent: bytes, step: int) -> None:
    async def twice() -> list[bytes]:
        async with serving(always(sent, step=step)) as connections:
            return [await whole(await connections.post("", b"{}", headers={})) for _ in range(2)]

    assert asyncio.run(twice()) == [b"hello", b"hello"]


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with serving(always(b"HTTP/1.1 200 OK\r\n\r\nhello", then_close=True)) as connections:
        for _ in range(2):
            assert await whole(await connections.post("", b"{}", headers={})) == b"hello"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        CHUNKED[:-9],
        b"hello, this is no HTTP\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 100_000,
    ],
)
async def test_what_is_cut_or_no_http_is_told(sent: bytes) -> None:
    async with serving(always(sent or b"", then_close=True, step=10_000)) as connections:
        with pytest.raises(ConnectionBroken):
            await whole(await connections.post("", b"{}", headers={}))


async def test_a_second_answer_that_nobody_asked_for_is_never_taken_for_the_next() -> None:
    stolen = LENGTH.replace(b"hello", b"wrong")
    async with serving(always(LENGTH + stolen)) as connections:
        for _ in range(3):
            assert await whole(await connections.post("", b"{}", headers={})) == b"hello"
            await asyncio.sleep(0.01)


async def test_a_reader_that_is_slow_holds_the_server_up() -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(64):
            writer.write(b"x" * 2**20)
            await writer.drain()
            sent += 1

    async with serving(answer) as connections:
        response = await connections.post("", b"{}", headers={})
        await asyncio.sleep(0.2)
        assert sent < 48
        assert len(await whole(response)) == 64 * 2**20


async def test_a_server_that_is_not_there_is_told_from_one_that_breaks() -> None:
    async with serving(always(LENGTH)) as connections:
        pass
    with pytest.raises(Unreachable):
        await connections.post("", b"{}", headers={})
