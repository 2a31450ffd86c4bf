"""Requests as HTTP allows them, whatever client sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from agentlightning.testing import ScriptedAnswer

Serve = Callable[..., AbstractAsyncContextManager[Any]]
OFFERS = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n",
    b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n",
)


async def answers(bench: Any, parts: Sequence[bytes], *, count: int) -> bytes:
    """What comes back for these writes, up to so many answers."""
    address = urlsplit(bench.gateway.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    told = b""
    async with asyncio.timeout(20):
        while told.count(b"chat.completion") + told.count(b"HTTP/1.1 4") < count and (
            part := await reader.read(2**16)
        ):
            told += part
    writer.close()
    return told


def request(bench: Any, text: str, *, offer: bytes) -> bytes:
    raw = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bench.key()}\r\n"
    return head.encode() + offer + b"Content-Length: %d\r\n\r\n" % len(raw) + raw


@pytest.mark.parametrize("offer", OFFERS, ids=["as Java does", "websocket"])
@pytest.mark.parametrize("size", [0, 1, 100])
async def test_an_offer_of_another_protocol_is_declined_and_its_request_answered(
    serve: Serve, offer: bytes, size: int
) -> None:
    async with serve([ScriptedAnswer(text="one"), ScriptedAnswer(text="two")]) as bench:
        sent = b"".join(request(bench, text, offer=offer) for text in ("first", "second"))
        parts = [sent[at : at + size] for at in range(0, len(sent), size)] if size else [sent]
        told = await answers(bench, parts, count=2)
        asked = [one.json["messages"][0]["content"] for one in bench.llm.requests]
        spans = await bench.spans()
    assert told.count(b"HTTP/1.1 200 OK") == 2
    assert (asked, len(spans)) == (["first", "second"], 2)


async def test_what_is_no_http_is_told(serve: Serve) -> None:
    async with serve() as bench:
        assert (await answers(bench, [b"\x16\x03\x01\x02\r\n\r\n"], count=1)).startswith(b"HTTP/1.1 400")


async def test_a_head_that_does_not_end_is_refused(serve: Serve) -> None:
    async with serve() as bench:
        head = b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + b"X: " + b"x" * 2**16
        parts = [head[: 2**16], b"x"]  # nothing more is on its way when the connection is closed
        told = await answers(bench, parts, count=1)
    assert told.startswith(b"HTTP/1.1 400")
    assert b"65536 bytes" in told


async def test_a_trailer_is_no_header(serve: Serve) -> None:
    raw = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x"}]})
    async with serve() as bench:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        trailer = f"Authorization: Bearer {bench.key()}\r\n\r\n".encode()
        told = await answers(bench, [head + b"%x\r\n%s\r\n0\r\n" % (len(raw), raw) + trailer], count=1)
    assert told.startswith(b"HTTP/1.1 401")
