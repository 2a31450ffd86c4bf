"""Items of an answer while they are streamed: each tells of its beginning, its pieces and its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_text
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._answer import call_item, message_item, refusal_part, text_part
from lightning_plugin_gateway.wires.responses._logprobs import of_text
from lightning_plugin_gateway.wires.responses._reasoning import reasoning_item


class Emit(Protocol):
    """Sends an event of a kind with these fields; its sequence number is added."""

    def __call__(self, kind: str, /, **fields: Json) -> None: ...


@dataclass(kw_only=True)
class Sampled:
    """What has been sampled of an answer so far.

    Attributes:
        entries: Log-probabilities of its tokens, if they are asked for.
        reasoning: Pieces of its reasoning.
    """

    entries: list[Body] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    def logprobs(self, text: str) -> list[Body]:
        """Those of a text of the answer."""
        return of_text(self.entries, text, after="".join(self.reasoning))


class OpenReasoning:
    """Reasoning that has begun, one part of text."""

    def __init__(self, emit: Emit, *, ident: str, index: int, request: Body) -> None:
        self.index = index
        self._emit = emit
        self._ident = ident
        self._request = request
        self._place: Body = {"item_id": ident, "output_index": index, "content_index": 0}
        self._texts: list[str] = []
        item: Body = {"id": ident, "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}
        emit("response.output_item.added", output_index=index, item=item)
        emit("response.content_part.added", **self._place, part={"type": "reasoning_text", "text": ""})

    def text(self, delta: str) -> None:
        """More of it."""
        self._texts.append(delta)
        self._emit("response.reasoning_text.delta", **self._place, delta=delta)

    def close(self, *, status: str) -> Body:
        """Ends it, and gives the whole item."""
        text = "".join(self._texts)
        self._emit("response.reasoning_text.done", **self._place, text=text)
        self._emit("response.content_part.done", **self._place, part={"type": "reasoning_text", "text": text})
        item = reasoning_item(text, ident=self._ident, request=self._request, status=status)
        self._emit("response.output_item.done", output_index=self.index, item=item)
        return item


class OpenMessage:
    """A message that has begun: parts of text and refusals, one at a time."""

    def __init__(self, emit: Emit, *, ident: str, index: int, sampled: Sampled) -> None:
        self.index = index
        self._emit = emit
        self._ident = ident
        self._sampled = sampled
        self._parts: list[Body] = []
        self._kind: Literal["", "text", "refusal"] = ""
        self._texts: list[str] = []
        self._annotations: list[Body] = []
        item = message_item([], ident=ident, status="in_progress")
        emit("response.output_item.added", output_index=index, item=item)

    def text(self, delta: str, *, entries: list[Body]) -> None:
        """More text, with the log-probabilities that came with it."""
        self._begin("text")
        if delta:
            self._texts.append(delta)
            self._emit(
                "response.output_text.delta", **self._place, delta=delta, logprobs=of_text(entries, delta)
            )

    def refuse(self, delta: str) -> None:
        """More of a refusal."""
        self._begin("refusal")
        self._texts.append(delta)
        self._emit("response.refusal.delta", **self._place, delta=delta)

    def annotate(self, annotation: Body) -> None:
        """An annotation of the text."""
        self._begin("text")
        self._annotations.append(annotation)
        self._emit(
            "response.output_text.annotation.added",
            **self._place,
            annotation=annotation,
            annotation_index=len(self._annotations) - 1,
        )

    def close(self, *, status: str) -> Body:
        """Ends it, and gives the whole item."""
        self._end_part()
        item = message_item(self._parts, ident=self._ident, status=status)
        self._emit("response.output_item.done", output_index=self.index, item=item)
        return item

    @property
    def _place(self) -> Body:
        return {"item_id": self._ident, "output_index": self.index, "content_index": len(self._parts)}

    def _begin(self, kind: Literal["text", "refusal"]) -> None:
        if self._kind == kind:
            return
        self._end_part()
        self._kind = kind
        part = text_part("") if kind == "text" else refusal_part("")
        self._emit("response.content_part.added", **self._place, part=part)

    def _end_part(self) -> None:
        text = "".join(self._texts)
        if self._kind == "text":
            logprobs = self._sampled.logprobs(text)
            part = text_part(text, logprobs=logprobs, annotations=self._annotations)
            self._emit("response.output_text.done", **self._place, text=text, logprobs=logprobs)
        elif self._kind == "refusal":
            part = refusal_part(text)
            self._emit("response.refusal.done", **self._place, refusal=text)
        else:
            return
        self._emit("response.content_part.done", **self._place, part=part)
        self._parts.append(part)
        self._kind, self._texts, self._annotations = "", [], []


class OpenCall:
    """A tool call. Its item begins once its name and id are known and arguments have come, or others begin."""

    def __init__(self, emit: Emit, *, ident: str) -> None:
        self.index: int | None = None
        self.call_id = ""
        self._emit = emit
        self._ident = ident
        self._name = ""
        self._texts: list[str] = []

    def add(self, piece: Body) -> bool:
        """Takes a fragment; whether the item can begin now."""
        function = as_object(piece.get("function"))
        self._name += as_text(function.get("name"))
        if self.index is None:
            self.call_id = as_text(piece.get("id")) or self.call_id
        if delta := as_text(function.get("arguments")):
            self._texts.append(delta)
            if self.index is not None:
                self._send(delta)
        return self.index is None and self.known and bool(self._texts)

    @property
    def known(self) -> bool:
        """It has a name and an id."""
        return bool(self._name and self.call_id)

    def begin(self, index: int) -> None:
        """Begins the item, with what has come of it."""
        self.index = index
        item = call_item(self._name, "", ident=self._ident, call=self.call_id, status="in_progress")
        self._emit("response.output_item.added", output_index=index, item=item)
        if self._texts:
            self._send("".join(self._texts))

    def close(self, *, status: str) -> Body:
        """Ends it, and gives the whole item."""
        arguments = "".join(self._texts)
        done: Body = {
            "item_id": self._ident,
            "output_index": self.index,
            "name": self._name,
            "arguments": arguments,
        }
        self._emit("response.function_call_arguments.done", **done)
        item = call_item(self._name, arguments, ident=self._ident, call=self.call_id, status=status)
        self._emit("response.output_item.done", output_index=self.index, item=item)
        return item

    def _send(self, delta: str) -> None:
        place: Body = {"item_id": self._ident, "output_index": self.index}
        self._emit("response.function_call_arguments.delta", **place, delta=delta)
