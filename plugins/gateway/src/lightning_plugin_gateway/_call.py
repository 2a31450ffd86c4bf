"""One call on its way through the gateway."""

from __future__ import annotations

import asyncio
import time

from agentlightning.types import Span
from lightning_plugin_gateway._attempts import Answer, AttemptCalls
from lightning_plugin_gateway._attribution import Caller
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._keepalive import KeepAlive
from lightning_plugin_gateway._outgoing import Outgoing
from lightning_plugin_gateway._record import CallRecord
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.turns import PreparedTurn
from lightning_plugin_gateway.upstreams import Model
from lightning_plugin_gateway.wires._wire import Wire

UNKNOWN_VERSION = -1


class Call:
    """What a call has come to.

    Attributes:
        wire: What its client speaks.
        model: Who answers it, once that is known.
        target: Name by which that one was found.
        out: How it goes out, likewise.
        answer: Where its answer is kept for a retry.
        fold: What has come of a streamed answer.
        turn: The turn of the conversation that it continues.
        keep_alive: Keeps its stream alive until the first token.
        size_bytes: Of its body.
        in_flight: It holds the gate open.
        recording: Its span is on the way to the store: from here on it is not cancelled.
    """

    def __init__(self, exchange: Exchange, caller: Caller, calls: AttemptCalls, wire: Wire) -> None:
        self.exchange = exchange
        self.caller = caller
        self.calls = calls
        self.wire = wire
        traceparent = exchange.header(b"traceparent")
        self.record = CallRecord(caller.grant, traceparent=traceparent, start_ns=time.time_ns())
        self.record.wire = wire.name
        self.model: Model | None = None
        self.target = ""
        self.out: Outgoing | None = None
        self.answer: Answer | None = None
        self.fold: StreamFold | None = None
        self.turn: PreparedTurn | None = None
        self.keep_alive: KeepAlive | None = None
        self.size_bytes = 0
        self.in_flight = False
        self.recording = False
        self._began = time.monotonic()
        self._version = UNKNOWN_VERSION
        self._task = asyncio.current_task()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers that name the call."""
        ident = self.record.span_id.encode()
        return [(b"x-request-id", ident), (b"request-id", ident)]

    @property
    def stream(self) -> bool:
        """The client wants events."""
        return bool(self.record.asked.get("stream"))

    def paused(self, since: float) -> None:
        """Time since then does not count."""
        self._began += time.monotonic() - since

    def deadline(self, timeout_s: float) -> float:
        """When it must have ended, on the monotonic clock."""
        return self._began + timeout_s

    def serve_with(self, model: Model) -> None:
        """Notes who answers from now on, and with which policy."""
        self.model = model
        self._version = model.version

    def interrupt(self) -> None:
        """Cancels the generation, unless the answer is complete."""
        if self._task and not self.recording and not (self.fold and self.fold.finished):
            self._task.cancel()

    def resume(self) -> None:
        """Takes the cancellation back, so that the rest can be done."""
        if self._task:
            self._task.uncancel()

    async def begin_events(self) -> None:
        """Sends the head of its stream, unless a comment came before."""
        if self.keep_alive:
            keep_alive, self.keep_alive = self.keep_alive, None
            await keep_alive.stop()
        if not self.exchange.started:
            await self.exchange.start_events(self.headers)

    def completed(self, completion: Body | None = None) -> Body:
        """The answer as a chat completion, or as much of it as there is."""
        return completion if completion is not None else self.fold.completion() if self.fold else {}

    def span(self, completion: Body, *, error: ApiError | None = None, cancelled: bool = False) -> Span:
        """The call's span."""
        version = self._served(completion)
        return self.record.span(
            completion, version=version, end_ns=time.time_ns(), error=error, cancelled=cancelled
        )

    def _served(self, completion: Body) -> int:
        if self.model is None or self.model.version == UNKNOWN_VERSION:
            return UNKNOWN_VERSION
        told = completion.get("policy_version")
        if isinstance(told, int) and not isinstance(told, bool):
            return told
        return self._version if self._version == self.model.version else UNKNOWN_VERSION
