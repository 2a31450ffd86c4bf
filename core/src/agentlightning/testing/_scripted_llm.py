"""A model server on a loopback port that answers from a script: chat completions, responses, messages, embeddings."""

from __future__ import annotations

import asyncio
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Self

import msgspec

from agentlightning.testing._scripted_answer import ScriptedAnswer, ScriptedFault, ScriptedReply
from agentlightning.testing._scripted_body import completion, stream_events
from agentlightning.testing._scripted_messages import count, fault, message, message_events
from agentlightning.testing._scripted_responses import response, response_events
from agentlightning.testing._scripted_wire import (
    LAST_CHUNK,
    ScriptedRequest,
    WatchedReader,
    chunk,
    head,
    read_request,
)
from agentlightning.types import Json


class _Wire(NamedTuple):
    """A protocol: how its answers' ids begin, an answer whole and as events, and an error."""

    prefix: str
    whole: Callable[..., dict[str, Json]]
    events: Callable[..., Iterator[bytes]]
    fault: Callable[..., dict[str, Json]]


def _openai_fault(message: str, *, status: int) -> dict[str, Json]:
    del status
    return {"error": {"message": message, "type": "scripted", "param": None, "code": None}}


_WIRES: Final = {
    "/v1/chat/completions": _Wire("chatcmpl-", completion, stream_events, _openai_fault),
    "/v1/responses": _Wire("resp_", response, response_events, _openai_fault),
    "/v1/messages": _Wire("msg_", message, message_events, fault),
}
Script = Callable[[ScriptedRequest], ScriptedReply]


class ScriptedLLM:
    """A scripted model server; a context manager that serves in a thread of its own.

    Attributes:
        base_url: `http://127.0.0.1:port/v1`, known while it serves.
        requests: Requests for answers, in order of arrival, by whichever of the three protocols.
    """

    base_url: str

    def __init__(self, script: Script | Iterable[ScriptedReply] = (), *, model: str = "scripted") -> None:
        """Prepares a server.

        Args:
            script: Replies in order of arrival, or a function of the request. After its last reply a script answers
                500; an empty one always answers `ok`.
            model: Name that `GET /v1/models` lists.
        """
        self.requests: list[ScriptedRequest] = []
        self._script: Script = script if callable(script) else _in_order(script)
        self._model = model
        self._change = threading.Condition()
        self._held = self._left = 0
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-llm", daemon=True)
        self._thread.start()
        self._go = asyncio.Event()
        serving = self._loop.create_server(self._protocol, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_held(self, count: int = 1, *, timeout_s: float = 10.0) -> None:
        """Blocks until `count` answers have come to their `hold_after`. Raises `TimeoutError`."""
        self._wait(lambda: self._held >= count, f"{count} held answers", timeout_s)

    def wait_left(self, count: int = 1, *, timeout_s: float = 10.0) -> None:
        """Blocks until `count` clients have left before their answer's end. Raises `TimeoutError`."""
        self._wait(lambda: self._left >= count, f"{count} clients to leave", timeout_s)

    def let_go(self) -> None:
        """Lets every held answer go on, those to come included."""
        self._loop.call_soon_threadsafe(self._go.set)

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        with self._change:
            if not self._change.wait_for(condition, timeout_s):
                raise TimeoutError(f"waited {timeout_s} s for {what}; held {self._held}, left {self._left}")

    def _count(self, *, held: int = 0, left: int = 0) -> None:
        with self._change:
            self._held += held
            self._left += left
            self._change.notify_all()

    async def _close(self) -> None:
        self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = WatchedReader(self._loop)

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(reader, writer)

        return asyncio.StreamReaderProtocol(reader, connected, loop=self._loop)

    async def _connected(self, reader: WatchedReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            while request := await read_request(reader):
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client, or whoever closes this server, has had enough of this connection
        finally:
            writer.close()

    async def _answer(
        self, request: ScriptedRequest, reader: WatchedReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Writes one response; true when the connection can serve another request."""
        if request.method == "GET" and request.path == "/v1/models":
            listing = {
                "object": "list",
                "data": [{"id": self._model, "object": "model", "owned_by": "script"}],
            }
            body = msgspec.json.encode(listing)
            writer.write(head(200, "application/json", length=len(body)) + body)
            return True
        path = request.path.partition("?")[0]
        if request.method == "POST" and path in _CALCULATED:
            body = msgspec.json.encode(_CALCULATED[path](request.json))
            writer.write(head(200, "application/json", length=len(body)) + body)
            return True
        wire = _WIRES.get(path)
        if request.method != "POST" or wire is None:
            missing = ScriptedFault(status=404, message=f"{request.method} {request.path}")
            return _write_fault(missing, writer, form=_openai_fault)
        self.requests.append(request)
        ident = f"{wire.prefix}{len(self.requests)}"
        try:
            reply = self._script(request)
        except IndexError as error:
            reply = ScriptedFault(status=500, message=str(error))
        if isinstance(reply, ScriptedFault):
            return _write_fault(reply, writer, form=wire.fault)
        writing = self._write_answer(reply, request, wire=wire, ident=ident, writer=writer)
        response = asyncio.ensure_future(writing)
        left = asyncio.ensure_future(reader.left.wait())
        try:
            await asyncio.wait({response, left}, return_when=asyncio.FIRST_COMPLETED)
            if not response.done():
                self._count(left=1)
                return False
            return await response
        finally:
            response.cancel()
            left.cancel()
            await asyncio.gather(response, left, return_exceptions=True)

    async def _write_answer(
        self,
        answer: ScriptedAnswer,
        request: ScriptedRequest,
        *,
        wire: _Wire,
        ident: str,
        writer: asyncio.StreamWriter,
    ) -> bool:
        body = request.json
        stream = bool(body.get("stream"))
        if stream:
            parts = list(wire.events(answer, body, ident=ident))
        else:
            parts = [msgspec.json.encode(wire.whole(answer, body, ident=ident))]
        kept = sum(map(len, parts)) if answer.cut_at is None else answer.cut_at
        framed = kept if answer.cut == "end" else sum(map(len, parts))
        kind = "text/event-stream" if stream else "application/json"
        if answer.hold_after == 0:
            await self._hold()
        writer.write(head(200, kind, length=None if stream else framed))
        for place, part in enumerate(parts, start=1):
            for piece in _split(part[:kept], answer.write_size):
                writer.write(chunk(piece) if stream else piece)
                await writer.drain()
            kept -= min(len(part), kept)
            if place == answer.hold_after:
                await self._hold()
        return await _finish(answer, writer, stream=stream)

    async def _hold(self) -> None:
        self._count(held=1)
        await self._go.wait()


async def _finish(answer: ScriptedAnswer, writer: asyncio.StreamWriter, *, stream: bool) -> bool:
    if answer.cut_at is not None and answer.cut == "reset":
        writer.transport.abort()
        return False
    if answer.cut_at is not None and answer.cut == "stall":
        await asyncio.Event().wait()
    if stream:
        writer.write(LAST_CHUNK)
    await writer.drain()
    return True


def _write_fault(
    fault: ScriptedFault, writer: asyncio.StreamWriter, *, form: Callable[..., dict[str, Json]]
) -> bool:
    if fault.status == 0:
        writer.transport.abort()
        return False
    body = fault.body.encode() or msgspec.json.encode(form(fault.message, status=fault.status))
    extra = {"Retry-After": fault.retry_after, "Location": fault.location}
    present = {name: value for name, value in extra.items() if value}
    writer.write(head(fault.status, fault.content_type, length=len(body), extra=present) + body)
    return True


def _embeddings(request: dict[str, Json]) -> dict[str, Json]:
    """A vector of two numbers for each text: its length, and 1."""
    given = request.get("input")
    texts = given if isinstance(given, list) else [given]
    vectors = [[float(len(text)) if isinstance(text, str) else 0.0, 1.0] for text in texts]
    encoded: list[Json] = list(vectors)
    if request.get("encoding_format") == "base64":
        encoded = [b64encode(struct.pack("<2f", *vector)).decode() for vector in vectors]
    return {
        "object": "list",
        "model": request.get("model"),
        "data": [
            {"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(encoded)
        ],
        "usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)},
    }


_CALCULATED: Final = {"/v1/embeddings": _embeddings, "/v1/messages/count_tokens": count}
"""What is answered without asking the script."""


def _split(data: bytes, size: int) -> Iterator[bytes]:
    step = size or max(len(data), 1)
    for start in range(0, len(data), step):
        yield data[start : start + step]


def _in_order(replies: Iterable[ScriptedReply]) -> Script:
    queue = list(replies)
    if not queue:
        return lambda _: ScriptedAnswer(text="ok")
    total = len(queue)
    queue.reverse()

    def script(_: ScriptedRequest) -> ScriptedReply:
        if not queue:
            raise IndexError(
                f"the script has {total} replies and was asked for more; add replies or use a function"
            )
        return queue.pop()

    return script
