"""The events of a streamed native answer as chat completion chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentlightning.types import Json
from lightning_plugin_gateway.wires._failures import unreadable
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text, as_whole
from lightning_plugin_gateway.wires._reasoning import PARAGRAPH
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._annotations import chat_annotations
from lightning_plugin_gateway.wires.responses._completion import chat_call, chat_frame
from lightning_plugin_gateway.wires.responses._logprobs import chat_logprobs
from lightning_plugin_gateway.wires.responses._outcome import failure, finish_reason
from lightning_plugin_gateway.wires.responses._usage import chat_usage

_BEGINNINGS = ("response.created", "response.queued", "response.in_progress")
_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_ARGUMENTS = "response.function_call_arguments"
_TEXTS: Final[Mapping[str, str]] = {
    "response.output_text": "output_text",
    "response.refusal": "refusal",
    "response.reasoning_text": "reasoning_text",
    "response.reasoning_summary_text": "summary_text",
}
"""Events of a text, up to `.delta` or `.done`, and the type of the part that they are of."""
_FIELDS: Final[Mapping[str, str]] = {
    "output_text": "content",
    "refusal": "refusal",
    "reasoning_text": "reasoning_content",
    "summary_text": "reasoning_content",
}
"""Fields of a chat delta, by the type of part that goes there."""


class ResponseChunks:
    """See `ChunkReader`. What a server leaves out of its pieces is taken from the whole that follows them."""

    def __init__(self) -> None:
        self._frame: Body = chat_frame({})
        self._begun = False
        self._thought = False
        self._sent: dict[tuple[str, int, int], int] = {}
        self._entries: dict[tuple[str, int, int], int] = {}
        self._calls: dict[int, int] = {}
        self._named: set[int] = set()

    def add(self, event: Body) -> list[Body]:
        """Chunks for the data of one event, maybe none. Raises `ApiError` if it tells of an error or is no event."""
        kind = event.get("type")
        if not isinstance(kind, str):
            raise unreadable(f"an event of type {kind!r:.80}")
        if kind == "error":
            raise failure(event.get("error") or event, found="an error event")
        if kind in _BEGINNINGS:
            return self._begin(event)
        if kind in _ENDS:
            return self._end(as_object(event.get("response")), status=kind.removeprefix("response."))
        if kind in ("response.output_item.added", "response.output_item.done"):
            item, place = as_object(event.get("item")), as_whole(event.get("output_index"))
            return self._item(item, place=place, done=kind.endswith(".done"))
        name, _, end = kind.rpartition(".")
        if name in _TEXTS and end in ("delta", "done"):
            return self._text_event(event, _TEXTS[name], done=end == "done")
        if name == _ARGUMENTS and end in ("delta", "done"):
            return self._arguments(event, as_whole(event.get("output_index")))
        if kind == "response.output_text.annotation.added":
            found = chat_annotations([event.get("annotation")])
            return [self._chunk({"annotations": found})] if found else []
        return []

    def _begin(self, event: Body) -> list[Body]:
        self._frame = chat_frame(as_object(event.get("response")))
        return [] if self._begun else [self._chunk({})]

    def _end(self, answer: Body, *, status: str) -> list[Body]:
        if as_text(answer.get("id")):
            self._frame = chat_frame(answer)
        chunks: list[Body] = []
        if not self._sent and not self._calls:
            for place, item in enumerate(as_objects(answer.get("output"))):
                chunks += self._item(item, place=place, done=True)
        reason = finish_reason({**answer, "status": status}, called=bool(self._calls))
        chunks.append(self._chunk({}, finish=reason))
        if usage := chat_usage(answer.get("usage")):
            chunks.append({**self._chunk({}), "choices": [], "usage": usage})
        return chunks

    def _text_event(self, event: Body, part: str, *, done: bool) -> list[Body]:
        index = event.get("summary_index" if part == "summary_text" else "content_index")
        key = (part, as_whole(event.get("output_index")), as_whole(index))
        entries = as_objects(event.get("logprobs"))
        if done:
            whole = as_text(event.get("refusal" if part == "refusal" else "text"))
            return self._rest(key, whole, entries=entries)
        delta = event.get("delta")
        if not isinstance(delta, str):
            raise unreadable(f"`delta` of an event is {delta!r:.80}, not a text")
        return self._text(key, delta, entries=entries)

    def _item(self, item: Body, *, place: int, done: bool) -> list[Body]:
        if item.get("type") == "function_call" or (done and item.get("type") == "custom_tool_call"):
            return self._call(item, place)
        if not done:
            return []
        chunks: list[Body] = []
        for name in ("summary", "content"):
            for index, part in enumerate(as_objects(item.get(name))):
                kind = as_text(part.get("type"))
                if kind in _FIELDS:
                    whole = as_text(part.get("refusal" if kind == "refusal" else "text"))
                    chunks += self._rest(
                        (kind, place, index), whole, entries=as_objects(part.get("logprobs"))
                    )
        return chunks

    def _rest(self, key: tuple[str, int, int], whole: str, *, entries: list[Body]) -> list[Body]:
        """What has not come in pieces of a text that is whole now."""
        text, left = whole[self._sent.get(key, 0) :], entries[self._entries.get(key, 0) :]
        empty = key[0] == "output_text" and key not in self._sent
        return self._text(key, text, entries=left) if text or left or empty else []

    def _text(self, key: tuple[str, int, int], text: str, *, entries: list[Body]) -> list[Body]:
        field = _FIELDS[key[0]]
        said = text
        if field == "reasoning_content" and text:
            if self._thought and not self._sent.get(key):
                said = PARAGRAPH + text
            self._thought = True
        self._sent[key] = self._sent.get(key, 0) + len(text)
        self._entries[key] = self._entries.get(key, 0) + len(entries)
        return [self._chunk({field: said}, logprobs=chat_logprobs(entries))]

    def _arguments(self, event: Body, place: int) -> list[Body]:
        delta, key = event.get("delta"), (_ARGUMENTS, place, 0)
        if not isinstance(delta, str):
            delta = as_text(event.get("arguments"))[self._sent.get(key, 0) :]
        if not delta:
            return []
        self._sent[key] = self._sent.get(key, 0) + len(delta)
        index = self._calls.setdefault(place, len(self._calls))
        return [self._chunk({"tool_calls": [{"index": index, "function": {"arguments": delta}}]})]

    def _call(self, item: Body, place: int) -> list[Body]:
        """A call's name and id, and what has not come in pieces of its arguments."""
        call, key = chat_call(item) or {}, (_ARGUMENTS, place, 0)
        index = self._calls.setdefault(place, len(self._calls))
        named = place in self._named
        self._named.add(place)
        if call.get("type") == "custom":
            return [] if named else [self._chunk({"tool_calls": [{"index": index, **call}]})]
        function = as_object(call.get("function"))
        rest = as_text(function.get("arguments"))[self._sent.get(key, 0) :]
        self._sent[key] = self._sent.get(key, 0) + len(rest)
        if named:
            piece: Body = {"index": index, "function": {"arguments": rest}}
            return [self._chunk({"tool_calls": [piece]})] if rest else []
        return [
            self._chunk(
                {"tool_calls": [{"index": index, **call, "function": {**function, "arguments": rest}}]}
            )
        ]

    def _chunk(self, delta: Body, *, finish: str | None = None, logprobs: Json = None) -> Body:
        said = delta if self._begun else {"role": "assistant", **delta}
        self._begun = True
        choice: Body = {"index": 0, "delta": said, "finish_reason": finish}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        return {**self._frame, "object": "chat.completion.chunk", "choices": [choice]}
