"""The events of a native answer as chunks of a chat completion."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._failures import unreadable
from lightning_plugin_gateway.wires._narrow import as_object, as_text
from lightning_plugin_gateway.wires._reasoning import PARAGRAPH
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._arguments import arguments_of, may_be_wrapped, unwrapped
from lightning_plugin_gateway.wires.messages._completion import chat_call, chat_frame
from lightning_plugin_gateway.wires.messages._failures import told
from lightning_plugin_gateway.wires.messages._outcome import finish_fields
from lightning_plugin_gateway.wires.messages._thinking import (
    BLOCKS,
    chat_reasoning,
    is_foreign,
    is_thinking,
    text_of,
)
from lightning_plugin_gateway.wires.messages._usage import chat_usage

_PIECES = {"thinking_delta": "thinking", "signature_delta": "signature"}


class MessageChunks:
    """See `ChunkReader`. What a server's own tools do, and events of unknown types, are left out."""

    def __init__(self) -> None:
        self._frame = chat_frame({})
        self._usage: Body = {}
        self._stop: Body = {}
        self._calls = 0
        self._has_thought = False
        self._open: _OpenCall | _OpenThought | None = None

    def add(self, event: Body) -> list[Body]:
        """Chunks for one event. Raises `ApiError` if it tells of an error, or is none of this wire."""
        kind = event.get("type")
        if not isinstance(kind, str):
            raise unreadable(f"an event of type {kind!r:.40}")
        if kind == "error":
            raise told(event.get("error"))
        if kind == "message_start":
            return self._begin(as_object(event.get("message")))
        if kind == "content_block_start":
            return self._start_block(as_object(event.get("content_block")))
        if kind == "content_block_delta":
            return self._add(as_object(event.get("delta")))
        if kind == "content_block_stop":
            return self._stop_block()
        if kind == "message_delta":
            self._stop |= {
                name: value for name, value in as_object(event.get("delta")).items() if value is not None
            }
            self._count(event.get("usage"))
        return self._end() if kind == "message_stop" else []

    def _begin(self, message: Body) -> list[Body]:
        self._frame = chat_frame(message)
        self._count(message.get("usage"))
        return [self._chunk({"role": "assistant"})]

    def _start_block(self, block: Body) -> list[Body]:
        ended = self._stop_block()
        if block.get("type") == "text":
            return [*ended, *self._deltas([{"content": as_text(block.get("text"))}])]
        if block.get("type") == "tool_use":
            self._open = _OpenCall(block, index=self._calls)
            self._calls += 1
            return [*ended, *self._deltas(self._open.begin())]
        if is_thinking(block):
            self._open = _OpenThought(block, later=self._has_thought)
            return [*ended, *self._deltas(self._open.begin())]
        return ended

    def _add(self, delta: Body) -> list[Body]:
        kind = as_text(delta.get("type"))
        if kind == "text_delta":
            text = as_text(delta.get("text"))
            return self._deltas([{"content": text}] if text else [])
        if kind == "input_json_delta" and isinstance(self._open, _OpenCall):
            return self._deltas(self._open.add(as_text(delta.get("partial_json"))))
        if kind in _PIECES and isinstance(self._open, _OpenThought):
            return self._deltas(self._open.add(_PIECES[kind], as_text(delta.get(_PIECES[kind]))))
        return []

    def _stop_block(self) -> list[Body]:
        ended, self._open = self._open, None
        if ended is None:
            return []
        if isinstance(ended, _OpenThought):
            deltas = ended.end()
            self._has_thought = self._has_thought or ended.told
            return self._deltas(deltas)
        return self._deltas(ended.end())

    def _end(self) -> list[Body]:
        chunks = self._stop_block()
        finish = finish_fields(self._stop, called=bool(self._calls))
        chunks.append(self._chunk({}, **finish))
        if usage := chat_usage(self._usage):
            chunks.append({**self._chunk({}), "choices": [], "usage": usage})
        return chunks

    def _count(self, usage: Json) -> None:
        """Later counts are totals, and replace those before."""
        self._usage |= {name: value for name, value in as_object(usage).items() if value is not None}

    def _deltas(self, deltas: list[Body]) -> list[Body]:
        return [self._chunk(delta) for delta in deltas]

    def _chunk(self, delta: Body, **finish: Json) -> Body:
        choice: Body = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **finish}
        return {**self._frame, "object": "chat.completion.chunk", "choices": [choice]}


class _OpenCall:
    """A `tool_use` block: its arguments are told as they come, unless they could stand for others."""

    def __init__(self, block: Body, *, index: int) -> None:
        self._block = block
        self._index = index
        self._held = ""
        self._told = False

    def begin(self) -> list[Body]:
        """Who is called."""
        return [{"tool_calls": [{"index": self._index, **chat_call(self._block, "")}]}]

    def add(self, piece: str) -> list[Body]:
        """Takes a piece of its arguments."""
        if not self._told:
            piece, self._held = self._held + piece, ""
            if may_be_wrapped(piece):
                self._held = piece
                return []
        return self._arguments(piece)

    def end(self) -> list[Body]:
        """Arguments that could not be told before; those that stood in its beginning if none came."""
        if self._told:
            return []
        return self._arguments(unwrapped(self._held) or arguments_of(as_object(self._block.get("input"))))

    def _arguments(self, text: str) -> list[Body]:
        self._told = True
        return [{"tool_calls": [{"index": self._index, "function": {"arguments": text}}]}]


class _OpenThought:
    """A block of reasoning.

    Attributes:
        told: It has said something.
    """

    def __init__(self, block: Body, *, later: bool) -> None:
        self._block = block
        self._pieces: dict[str, list[str]] = {name: [as_text(block.get(name))] for name in _PIECES.values()}
        self._separator = PARAGRAPH if later else ""
        self.told = False

    def begin(self) -> list[Body]:
        """What stands in its beginning."""
        return self._tell(self._pieces["thinking"][0])

    def add(self, name: str, piece: str) -> list[Body]:
        """Takes a piece of its text or signature."""
        self._pieces[name].append(piece)
        return self._tell(piece) if name == "thinking" else []

    def end(self) -> list[Body]:
        """What is only known at its end: text that stood in its signature, and another server's signature."""
        whole: Body = {**self._block, **{name: "".join(pieces) for name, pieces in self._pieces.items()}}
        deltas = [] if self.told else self._tell(text_of(whole))
        return [*deltas, {BLOCKS: chat_reasoning([whole])[BLOCKS]}] if is_foreign(whole) else deltas

    def _tell(self, text: str) -> list[Body]:
        if not text:
            return []
        said = text if self.told else self._separator + text
        self.told = True
        return [{"reasoning_content": said}]
