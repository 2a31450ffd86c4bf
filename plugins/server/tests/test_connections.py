"""Connections that misbehave: heads without end, bodies that do not come, answers that nobody takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from agentlightning.store import MemoryStore
from lightning_plugin_server import ServerConfig
from lightning_plugin_server._protocol import MAX_HEAD
from lightning_plugin_server.testing import RunningServer, running_server

HEAD = b"POST /api/runs/list HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def impatient() -> Iterator[RunningServer]:
    config = ServerConfig(body_timeout_s=0.2, max_body_bytes=100_000)
    with running_server(MemoryStore(), config=config) as running:
        yield running


@asynccontextmanager
async def connected(server: RunningServer) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def authorised(server: RunningServer) -> bytes:
    return HEAD + f"x-api-key: {server.key}\r\n".encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def until_reset(writer: asyncio.StreamWriter, data: bytes, *, most: int) -> None:
    """Sends data again and again until the server ends the connection."""
    sent = 0
    async with asyncio.timeout(30):
        while not writer.is_closing():
            writer.write(data)
            sent += len(data)
            assert sent < most
            with contextlib.suppress(OSError):
                await writer.drain()
            await asyncio.sleep(0)


@pytest.mark.parametrize("sent", [b"", b"POST /api", HEAD, HEAD + b"content-length: 9\r\n\r\n{"])
async def test_a_request_that_does_not_arrive_is_given_up(impatient: RunningServer, sent: bytes) -> None:
    async with connected(impatient) as (reader, writer):
        writer.write(sent.replace(HEAD, authorised(impatient)))
        status, body = await answer(reader)
        assert (status, "did not arrive" in msgspec.json.decode(body)["error"]["message"]) == (408, True)
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "endless", [b"GET /" + b"x" * 1000, HEAD + b"x-a: " + b"a" * 1000, HEAD + b"x-a: 1\r\n" * 100]
)
async def test_a_head_without_end_is_refused(server: RunningServer, endless: bytes) -> None:
    async with connected(server) as (reader, writer):
        more = endless[-1:] if b"x-a: 1" not in endless else b"x-a: 1\r\n"
        writer.write(endless + more * (64 * MAX_HEAD // len(more)))
        assert (await answer(reader))[0] == 431


async def test_what_is_no_http_is_refused(server: RunningServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        status, body = await answer(reader)
        assert (status, msgspec.json.decode(body)["error"]["type"]) == (400, "ValueError")


async def test_a_body_that_goes_on_after_it_was_refused_ends_the_connection(impatient: RunningServer) -> None:
    async with connected(impatient) as (reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        assert (await answer(reader))[0] == 401
        await until_reset(writer, b"10000\r\n" + b"x" * 2**16 + b"\r\n", most=50 * 2**20)


async def test_answers_come_in_order_when_requests_do_not_wait_for_them(server: RunningServer) -> None:
    async with connected(server) as (reader, writer):
        one = authorised(server) + b"content-length: 2\r\n\r\n{}"
        other = one.replace(b"/api/runs/list", b"/api/store/statistics")
        writer.write(one + other + one)
        found = [msgspec.json.decode((await answer(reader))[1]) for _ in range(3)]
        assert (found[0], found[1]["runs"], found[2]) == ([], 0, [])


@pytest.mark.parametrize("step", [1, 100, 2**16])
async def test_an_offer_of_another_protocol_is_declined_and_its_request_answered(
    server: RunningServer, step: int
) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    one = authorised(server) + offer + b"content-length: 2\r\n\r\n{}"
    sent = one + one.replace(b"/api/runs/list", b"/api/store/statistics")
    async with connected(server) as (reader, writer):
        for place in range(0, len(sent), step):
            writer.write(sent[place : place + step])
            await writer.drain()
        found = [msgspec.json.decode((await answer(reader))[1]) for _ in range(2)]
        assert (found[0], found[1]["runs"]) == ([], 0)


async def test_a_head_alone_is_answered_too(server: RunningServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 405")


async def test_an_answer_that_nobody_takes_ends_the_connection(impatient: RunningServer) -> None:
    async with connected(impatient) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
        await until_reset(writer, request * 10, most=2**30)
