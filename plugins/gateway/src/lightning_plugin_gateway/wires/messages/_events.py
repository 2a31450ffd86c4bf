"""Chunks of a streamed chat completion as the events of a native answer."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text
from lightning_plugin_gateway.wires._reasoning import reasoning_of
from lightning_plugin_gateway.wires._sse import named_event
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._answer import frame, said
from lightning_plugin_gateway.wires.messages._arguments import input_text
from lightning_plugin_gateway.wires.messages._blocks import Blocks
from lightning_plugin_gateway.wires.messages._calls import CallFragment, CallFragments
from lightning_plugin_gateway.wires.messages._ids import IDS, call_id
from lightning_plugin_gateway.wires.messages._outcome import check_complete, stop_fields
from lightning_plugin_gateway.wires.messages._thinking import is_omitted, kept_blocks
from lightning_plugin_gateway.wires.messages._tools import streamed_early
from lightning_plugin_gateway.wires.messages._usage import native_usage

_PING: Body = {"type": "ping"}


class MessageEvents:
    """See `EventWriter`.

    Texts are told as they come. Tool calls wait for the end of the answer: until then nobody knows whether a call's
    arguments are an object, which `input` must be, nor whether more of them come after another call's, and one block
    has to end before the next begins. Meanwhile pings tell that the answer goes on. A client that sets
    `eager_input_streaming` of a tool takes arguments as they are written: if the first call is of that tool, it is
    told as it comes, and what comes beside it waits for the end.
    """

    def __init__(self, request: Body) -> None:
        self._request = request
        self._early = streamed_early(request)
        self._blocks = Blocks(omitted=is_omitted(request))
        self._calls = CallFragments()
        self._live: CallFragment | None = None
        self._late: list[Body] = []
        self._base = ""
        self._usage: Json = None
        self._choice: Body = {}
        self._refused = False

    def add(self, chunk: Body) -> bytes:
        """Events for one chunk. Raises `ApiError` 502 if the model's server gave up."""
        events = self._begin(chunk)
        if chunk.get("usage") is not None:
            self._usage = chunk["usage"]
        for choice in as_objects(chunk.get("choices")):
            if choice.get("index", 0) == 0:
                events += self._add(choice)
        return b"".join(map(named_event, events))

    def end(self) -> bytes:
        """What is left of the blocks, and why the answer ended."""
        events = [*self._begin({}), *self._blocks.end()]
        for delta in self._late:
            events += self._say(delta)
        for call in self._calls.whole():
            if call is not self._live:
                events += [*self._call(call), self._blocks.arguments(input_text(call.arguments))]
        if not self._blocks.count:
            events += self._blocks.text("")
        events += self._blocks.end()
        stop = stop_fields(self._choice, self._request, called=bool(self._calls), refused=self._refused)
        events += [
            {"type": "message_delta", "delta": stop, "usage": native_usage(self._usage)},
            {"type": "message_stop"},
        ]
        return b"".join(map(named_event, events))

    def _begin(self, chunk: Body) -> list[Body]:
        if self._base:
            return []
        self._base = IDS.base(chunk, self._request)
        usage = native_usage(chunk.get("usage"), tier=chunk.get("service_tier"))
        message: Body = {**frame(chunk, self._request, base=self._base), "usage": usage}
        return [{"type": "message_start", "message": message}, _PING]

    def _add(self, choice: Body) -> list[Body]:
        check_complete(choice)
        for name in ("finish_reason", "stop_reason"):
            if choice.get(name) is not None:
                self._choice[name] = choice[name]
        delta = as_object(choice.get("delta"))
        self._refused = self._refused or bool(as_text(delta.get("refusal")))
        events: list[Body] = []
        if self._live:
            self._late.append(delta)
        else:
            events += self._say(delta)
        if delta.get("tool_calls"):
            self._calls.add(delta["tool_calls"])
            events += self._follow() or ([] if events else [_PING])
        return events

    def _say(self, delta: Body) -> list[Body]:
        """Everything but tool calls."""
        events: list[Body] = []
        if thought := reasoning_of(delta):
            events += self._blocks.thinking(thought)
        for block in kept_blocks(delta):
            if block["type"] == "redacted_thinking":
                events += self._blocks.redacted(block)
            elif block["signature"]:
                events += self._blocks.signed(block)
        for text in (said(delta.get("content")), as_text(delta.get("refusal"))):
            if text:
                events += self._blocks.text(text)
        return events

    def _follow(self) -> list[Body]:
        """What a client that takes it early is told of the first call."""
        events: list[Body] = []
        first = self._calls.whole()[:1]
        if not self._live and first and first[0].begun and first[0].name in self._early:
            (self._live,) = first
            events += self._call(self._live)
        if self._live and (piece := self._live.take()):
            events.append(self._blocks.arguments(piece))
        return events

    def _call(self, call: CallFragment) -> list[Body]:
        return self._blocks.call(call.name, ident=call_id(call.ident, base=self._base, place=call.place))
