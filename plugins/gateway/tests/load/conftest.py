"""Many calls at once: an upstream and clients that cost little, and a gateway that records to a file."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentlightning import semconv
from agentlightning.gateway import AttemptGrant, Gateway, GatewayConfig, HttpUpstream
from agentlightning.store import SpanQuery, Store, open_store
from agentlightning.types import Lease, Mode, RolloutRequest, Span, SpanStatus
from lightning_plugin_gateway import create_gateway

PROMPT = [1, 2, 3, 4]
TOKENS = 16
"""Of every answer."""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n"
_NUMBER = re.compile(rb"call (\d+)\b")
_BACKLOG = 4096


class SlowUpstream:
    """Answers with ids and log-probabilities; holds every answer back until enough of them are under way.

    Attributes:
        port: Where it listens.
        open: Answers under way.
        arrived: Set when the call with this number is here.
    """

    def __init__(self) -> None:
        self.port = 0
        self.open = 0
        self.arrived: dict[int, asyncio.Event] = {}
        self.idle = asyncio.Event()
        self._held = 0
        self._enough = asyncio.Event()
        self._enough.set()

    def hold_until(self, count: int) -> None:
        """From now on, answers wait after their first token until so many are under way."""
        self._held = count
        self._enough.clear()

    def let_go(self) -> None:
        """Holds answers no longer."""
        self._enough.set()

    def expect(self, number: int) -> asyncio.Event:
        """Is set when the call with this number arrives."""
        return self.arrived.setdefault(number, asyncio.Event())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SlowUpstream]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=_BACKLOG)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head.lower())
                body = await reader.readexactly(int(length[1]) if length else 0)
                await self._answer(body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = _NUMBER.search(body)
        number = int(found[1]) if found else 0
        self.expect(number).set()
        self._enter()
        try:
            if json.loads(body).get("stream"):
                writer.write(_HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked"))
                for index in range(TOKENS):
                    _write_event(writer, _chunk(number, index))
                    await writer.drain()
                    if not index:
                        await self._hold(reader)
                _write_event(writer, None)
                writer.write(b"0\r\n\r\n")
            else:
                await self._hold(reader)
                whole = json.dumps(_completion(number)).encode()
                writer.write(_HEAD % (b"application/json", b"Content-Length: %d" % len(whole)) + whole)
            await writer.drain()
        finally:
            self._leave()

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        """Returns when enough answers are under way. Raises `ConnectionError` if the gateway leaves before."""
        if self._enough.is_set():
            return
        enough, gone = asyncio.ensure_future(self._enough.wait()), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([enough, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ConnectionError("the gateway has left")
        finally:
            for task in (enough, gone):
                task.cancel()
            await asyncio.gather(enough, gone, return_exceptions=True)

    def _enter(self) -> None:
        self.open += 1
        self.idle.clear()
        if self.open >= self._held:
            self._enough.set()

    def _leave(self) -> None:
        self.open -= 1
        if not self.open:
            self.idle.set()


def answer_of(number: int) -> list[int]:
    """What the call with this number is answered with."""
    return [number * TOKENS + index for index in range(TOKENS)]


def _entry(token: int) -> dict[str, Any]:
    return {"token": f"t{token} ", "logprob": -0.5, "bytes": None, "top_logprobs": []}


def _chunk(number: int, index: int) -> dict[str, Any]:
    token = answer_of(number)[index]
    choice = {
        "index": 0,
        "delta": {"content": f"t{token} "},
        "token_ids": [token],
        "logprobs": {"content": [_entry(token)]},
        "finish_reason": "stop" if index == TOKENS - 1 else None,
    }
    top = {"prompt_token_ids": PROMPT} if not index else {}
    return {"id": f"c-{number}", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **top}


def _completion(number: int) -> dict[str, Any]:
    ids = answer_of(number)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(f"t{token} " for token in ids)},
        "token_ids": ids,
        "logprobs": {"content": [_entry(token) for token in ids]},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": len(PROMPT), "completion_tokens": TOKENS, "total_tokens": len(PROMPT) + TOKENS}
    return {
        "id": f"c-{number}",
        "object": "chat.completion",
        "model": "m",
        "choices": [choice],
        "prompt_token_ids": PROMPT,
        "usage": usage,
    }


def _write_event(writer: asyncio.StreamWriter, event: dict[str, Any] | None) -> None:
    data = b"data: %b\n\n" % (b"[DONE]" if event is None else json.dumps(event).encode())
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


@dataclass
class Load:
    """A gateway before a slow upstream, and attempts that call."""

    gateway: Gateway
    upstream: SlowUpstream
    store: Store
    leases: list[Lease] = field(default_factory=list)

    async def begin(self, attempts: int) -> list[str]:
        """Keys of so many new attempts."""
        await self.store.rollouts.enqueue([RolloutRequest(task=None) for _ in range(attempts)])
        self.leases = await self.store.rollouts.lease("load", limit=attempts, ttl_s=600)
        return [
            self.gateway.issue_key(
                AttemptGrant(
                    rollout_id=lease.rollout.id,
                    attempt_id=lease.attempt.id,
                    token=lease.attempt.token,
                    mode=Mode.TRAIN,
                )
            )
            for lease in self.leases
        ]

    async def end(self) -> list[Span]:
        """Releases the attempts: what was recorded of them."""
        spans: list[Span] = []
        for lease in self.leases:
            await self.gateway.release(lease.attempt.id)
            cursor = None
            while True:
                query = SpanQuery(rollout_ids=(lease.rollout.id,), operations=("chat",))
                page = await self.store.spans.page(query, cursor=cursor)
                spans += page.items
                cursor = page.cursor
                if cursor is None:
                    break
        self.leases = []
        return spans

    async def call(
        self, number: int, key: str, *, stream: bool = True, leave_after: int | None = None
    ) -> bytes:
        """Makes a call: all that came back, or as much as came until the client left.

        Args:
            number: Chooses the answer; no other call may have it.
            key: The attempt's.
            leave_after: Tokens after which the client leaves; the upstream has the call by then, even with 0.
        """
        port = urlsplit(self.gateway.base_url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": f"call {number} "}]}
        body = json.dumps(asked).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
            f"Authorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        try:
            if leave_after is None:
                return await reader.read()
            await self.upstream.expect(number).wait()
            received = b""
            while received.count(b"data: ") < leave_after and (more := await reader.read(4096)):
                received += more
            return received
        finally:
            if leave_after is not None:
                writer.transport.abort()
            writer.close()


Serve = Callable[..., AbstractAsyncContextManager[Load]]


@pytest.fixture
def under_load(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def serving() -> AsyncIterator[Load]:
        async with (
            SlowUpstream().serving() as upstream,
            open_store(f"sqlite:///{tmp_path / 'store.db'}") as store,
        ):
            there = {"m": HttpUpstream(base_url=f"http://127.0.0.1:{upstream.port}/v1")}
            gateway = create_gateway(store=store, upstreams=there, config=GatewayConfig(max_calls=100_000))
            await gateway.start()
            try:
                yield Load(gateway, upstream, store)
            finally:
                await gateway.stop()

    return serving


@pytest.fixture
def recorded() -> Callable[[list[Span]], Counter[str]]:
    """How many calls were recorded whole, as cancelled, and as anything else."""

    def count(spans: list[Span]) -> Counter[str]:
        found: Counter[str] = Counter()
        for span in spans:
            (record,) = span.tokens or (None,)
            whole = record is not None and not record.incomplete and span.status is SpanStatus.OK
            cancelled = bool(span.attributes.get(semconv.CANCELLED))
            found["whole" if whole else "cancelled" if cancelled else f"{span.status} {span.error}"] += 1
        return found

    return count


@pytest.fixture
def tokens_of() -> Callable[[int], list[int]]:
    """What the call with this number is answered with."""
    return answer_of
