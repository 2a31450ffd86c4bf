"""Streamed chat completions as the events of a native answer."""

from __future__ import annotations

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text, as_whole
from lightning_plugin_gateway.wires._reasoning import reasoning_of
from lightning_plugin_gateway.wires._sse import named_event
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._annotations import native_annotations
from lightning_plugin_gateway.wires.responses._answer import frame
from lightning_plugin_gateway.wires.responses._ids import IDS, call_id, item_id
from lightning_plugin_gateway.wires.responses._logprobs import entries_of
from lightning_plugin_gateway.wires.responses._open_items import OpenCall, OpenMessage, OpenReasoning, Sampled
from lightning_plugin_gateway.wires.responses._outcome import Outcome
from lightning_plugin_gateway.wires.responses._to_chat import wants_logprobs
from lightning_plugin_gateway.wires.responses._usage import native_usage

_AFTER_ALL = 2**31 - 1
"""Sequence number of an event that ends a stream whose count is not known."""


class ResponseEvents:
    """See `EventWriter`. Items stand in the order in which they began.

    Text and reasoning end where something else begins, tool calls with the answer, as their fragments may interleave.
    """

    def __init__(self, request: Body) -> None:
        self._request = request
        self._logprobs = wants_logprobs(request)
        self._sent: list[bytes] = []
        self._sequence = 0
        self._base = ""
        self._frame: Body = {}
        self._items: list[Body] = []
        self._open: OpenReasoning | OpenMessage | None = None
        self._calls: dict[int, OpenCall] = {}
        self._begun = {"rs": 0, "msg": 0}
        self._sampled = Sampled()
        self._silent = False
        self._finish: Json = None
        self._usage: Json = None

    def add(self, chunk: Body) -> bytes:
        """Events for one chunk, maybe none."""
        if not self._frame:
            self._begin(chunk)
        if chunk.get("usage") is not None:
            self._usage = chunk["usage"]
        for choice in as_objects(chunk.get("choices")):
            if choice.get("index", 0) == 0:
                self._add_choice(choice)
        return self._flush()

    def end(self) -> bytes:
        """The events that complete the answer."""
        if not self._frame:
            self._begin({})
        outcome = Outcome.of(self._finish)
        if self._silent and not self._calls and not self._begun["msg"]:
            self._message().text("", entries=[])
        for place, index in enumerate(sorted(self._calls)):
            call = self._calls[index]
            call.call_id = call.call_id or call_id(self._base, place=place)
            if call.index is None:
                self._begin_call(call)
        left = [*self._calls.values(), *([self._open] if self._open else [])]
        for item in sorted(left, key=lambda one: one.index or 0):
            last = item.index == len(self._items) - 1
            self._items[item.index or 0] = item.close(status=outcome.item_status(last=last))
        answer = {**self._frame, **outcome.fields, "output": self._items, "usage": native_usage(self._usage)}
        self._emit(f"response.{outcome.status}", response=answer)
        return self._flush()

    def _begin(self, chunk: Body) -> None:
        self._base = IDS.base(chunk, self._request)
        self._frame = frame(chunk, self._request, base=self._base)
        self._emit("response.created", response=self._frame)
        self._emit("response.in_progress", response=self._frame)

    def _add_choice(self, choice: Body) -> None:
        delta = as_object(choice.get("delta"))
        entries = entries_of(choice) if self._logprobs else []
        self._sampled.entries += entries
        if thought := reasoning_of(delta):
            self._reasoning().text(thought)
            self._sampled.reasoning.append(thought)
        content = delta.get("content")
        if isinstance(content, str):
            self._silent = True
            if content:
                self._message().text(content, entries=entries)
        if refusal := as_text(delta.get("refusal")):
            self._message().refuse(refusal)
        for annotation in native_annotations(delta.get("annotations")):
            self._message().annotate(annotation)
        for place, piece in enumerate(as_objects(delta.get("tool_calls"))):
            self._add_call(as_whole(piece.get("index", place)), piece)
        if isinstance(choice.get("finish_reason"), str):
            self._finish = choice["finish_reason"]

    def _add_call(self, index: int, piece: Body) -> None:
        if index not in self._calls:
            self._begin_known_calls()
            self._calls[index] = OpenCall(self._emit, ident=item_id("fc", self._base, place=index))
        call = self._calls[index]
        if call.add(piece):
            self._begin_call(call)

    def _begin_known_calls(self) -> None:
        """A call without arguments begins when the next one does."""
        for call in self._calls.values():
            if call.index is None and call.known:
                self._begin_call(call)

    def _begin_call(self, call: OpenCall) -> None:
        self._close()
        call.begin(self._next_index())

    def _reasoning(self) -> OpenReasoning:
        if not isinstance(self._open, OpenReasoning):
            self._close()
            ident, index = self._next_ident("rs"), self._next_index()
            self._open = OpenReasoning(self._emit, ident=ident, index=index, request=self._request)
        return self._open

    def _message(self) -> OpenMessage:
        if not isinstance(self._open, OpenMessage):
            self._close()
            ident, index = self._next_ident("msg"), self._next_index()
            self._open = OpenMessage(self._emit, ident=ident, index=index, sampled=self._sampled)
        return self._open

    def _close(self) -> None:
        if self._open:
            item, self._open = self._open, None
            self._items[item.index] = item.close(status="completed")

    def _next_ident(self, kind: str) -> str:
        self._begun[kind] += 1
        return item_id(kind, self._base, place=self._begun[kind] - 1)

    def _next_index(self) -> int:
        self._items.append({})
        return len(self._items) - 1

    def _emit(self, kind: str, /, **fields: Json) -> None:
        self._sent.append(named_event({"type": kind, **fields, "sequence_number": self._sequence}))
        self._sequence += 1

    def _flush(self) -> bytes:
        sent, self._sent = b"".join(self._sent), []
        return sent


def error_event(error: ApiError) -> bytes:
    """The event that ends a failed stream: as it is documented, and with `error`, which SDKs raise."""
    told = msgspec.json.decode(error.body, type=dict[str, dict[str, object]])["error"]
    fields: Body = {"code": error.fault, "message": error.message, "param": None, "error": told}
    return named_event({"type": "error", **fields, "sequence_number": _AFTER_ALL})
