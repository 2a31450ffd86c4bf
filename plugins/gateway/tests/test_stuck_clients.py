"""A client that stops reading holds up nobody: neither a change of weights nor the end of its attempt."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from agentlightning.gateway import GatewayConfig
from agentlightning.testing import ScriptedAnswer
from agentlightning.types import SpanStatus
from lightning_plugin_gateway import _calls

Serve = Callable[..., AbstractAsyncContextManager[Any]]
MORE_THAN_BUFFERS_TAKE = "x" * (24 * 2**20)
LONG = ScriptedAnswer(text=MORE_THAN_BUFFERS_TAKE, token_ids=(1,), prompt_token_ids=(1,), chunk_chars=200_000)
SOON = GatewayConfig(call_timeout_s=1.0)


@asynccontextmanager
async def asking(bench: Any, **fields: object) -> AsyncIterator[socket.socket]:
    """A client that sends a request and reads nothing."""
    address = urlsplit(bench.gateway.base_url)
    raw = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bench.key()}\r\n"
    with socket.create_connection((address.hostname, address.port)) as client:
        await asyncio.to_thread(client.sendall, f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        yield client


@pytest.fixture(autouse=True)
def short_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calls, "_LAST_WORD_S", 0.2)


async def until_asked(bench: Any) -> None:
    while not bench.llm.requests:
        await bench.store.statistics()


async def test_a_stream_that_nobody_reads_ends_with_its_time(serve: Serve) -> None:
    async with serve([LONG], config=SOON) as bench, asking(bench, stream=True):
        await until_asked(bench)
        async with bench.gateway.paused(drain_timeout_s=20.0):
            pass
        async with asyncio.timeout(20.0):
            await bench.gateway.release(bench.attempt())
        (span,) = await bench.spans()
    assert (span.status, span.attributes["error.type"]) == (SpanStatus.ERROR, "timeout")


async def test_answers_that_nobody_reads_hold_up_nobody(serve: Serve) -> None:
    """The second answer cannot begin before the first, on the same connection, was read."""
    async with serve(lambda _: LONG, config=SOON) as bench, asking(bench) as client:
        await until_asked(bench)
        raw = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "y"}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bench.key()}\r\n"
        client.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        while len(bench.llm.requests) < 2:
            await bench.store.statistics()
        async with bench.gateway.paused(drain_timeout_s=20.0):
            pass
        async with asyncio.timeout(20.0):
            await bench.gateway.release(bench.attempt())
