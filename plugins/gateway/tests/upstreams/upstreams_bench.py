"""Models behind real servers on loopback ports: scripted ones, and ones that send whatever bytes they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from agentlightning.gateway import HttpUpstream
from lightning_plugin_gateway.upstreams import CallRoute, HttpModel, HttpPolicy

IMPATIENT = HttpPolicy(
    tries=3,
    backoff_s=0.005,
    longest_wait_s=0.3,
    connect_s=1.0,
    first_byte_s=5.0,
    silence_s=5.0,
    total_s=20.0,
    cooldown_s=0.05,
    longest_cooldown_s=0.1,
)
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def answer(text: str) -> bytes:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    return msgspec.json.encode({"id": "c", "choices": [{"index": 0, "message": message}]})


def reply(body: bytes, *, status: int = 200, kind: str = "application/json", headers: str = "") -> bytes:
    """A whole HTTP response."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def event_stream(*events: bytes, close: bool = True) -> bytes:
    """The head of a chunked stream and its events, each as one chunk; `close` ends it."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    head = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunks + (b"0\r\n\r\n" if close else b"")


@dataclass
class RawServer:
    """Answers each request with bytes; what `script` returns is sent as it is.

    Attributes:
        script: Bytes to send, or None to send nothing; then `after`: keep the connection, end
            a chunked body and keep it, send the body once more after `go` and stall, close, reset or stall.
        requests: Head and body of each request.
        connections: Opened so far.
        left: Set whenever a client has left a stalled answer.
    """

    script: Callable[[int], tuple[bytes, str]]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    in_flight: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def kill(self) -> None:
        """Resets all connections and refuses new ones."""
        if self._server:
            server, self._server = self._server, None
            for listening in server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            await asyncio.sleep(
                0
            )  # a connection that was accepted in this turn belongs to the server in the next
            server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it came while the server was killed
            writer.transport.abort()
            return
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while await self._answered(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        body = await reader.readexactly(int(length.partition(b":")[2]))
        self.requests.append(head + body)
        data, after = self.script(len(self.requests) - 1)
        writer.write(data)
        await writer.drain()
        if after == "reset":
            writer.transport.abort()
        elif after == "end":
            await asyncio.sleep(0.001)
            writer.write(b"0\r\n\r\n")
            return True
        elif after == "more":
            await self.go.wait()
            writer.write(data.partition(b"\r\n\r\n")[2])
            await reader.read()
        elif after == "stall":
            self.in_flight += 1
            try:
                await reader.read()
            finally:
                self.in_flight -= 1
                self.left.set()
        return after == "keep"


Script = Callable[[int], tuple[bytes, str]] | Sequence[tuple[bytes, str]]
Servers = Callable[..., AbstractAsyncContextManager[list[RawServer]]]
Opened = Callable[..., AbstractAsyncContextManager[HttpModel]]


@pytest.fixture
def servers() -> Servers:
    @asynccontextmanager
    async def opened(*scripts: Script) -> AsyncIterator[list[RawServer]]:
        made = [
            RawServer(script if callable(script) else lambda place, parts=script: parts[place])
            for script in scripts
        ]
        async with AsyncExitStack() as stack:
            for server in made:
                await server.start()
                stack.push_async_callback(server.kill)
            yield made

    return opened


@pytest.fixture
def opened() -> Opened:
    @asynccontextmanager
    async def opening(*urls: str, policy: HttpPolicy = IMPATIENT, **options: Any) -> AsyncIterator[HttpModel]:
        upstream = HttpUpstream(base_url=urls[0], replicas=urls[1:], **options)
        model = HttpModel(upstream, policy=policy, title="m")
        try:
            yield model
        finally:
            await model.stop()

    return opening


def route(rollout: str = "r1", **options: Any) -> CallRoute:
    """A call of a rollout."""
    return CallRoute(rollout_id=rollout, attempt_id=f"{rollout}-1", **options)


async def ask(model: HttpModel, rollout: str = "r1", *, wire: str = "chat", **options: Any) -> Any:
    """The text of an answer to a chat completion request."""
    said: Any = await model.call(wire, HELLO, route=route(rollout, **options))
    return said["choices"][0]["message"]["content"]


async def gather(events: AsyncGenerator[Any]) -> list[Any]:
    """All events of a stream."""
    return [event async for event in events]


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds that nothing tells of. Raises `TimeoutError` after seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
