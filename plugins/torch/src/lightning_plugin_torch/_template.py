"""The chat format of any Hugging Face model: its own template, and tool calls in the style of Hermes.

A tool call is `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_plugin_torch._format import Delta, Reader
from lightning_plugin_torch._messages import Call, Message, Tool
from lightning_plugin_torch._pieces import Control, Piece, PieceEncoder, remainder
from lightning_plugin_torch._text import Detokenizer, StopText

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class TemplateFormat:
    """The format of a loaded model."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, end_ids: frozenset[int]) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "the tokenizer has no chat template; choose an instruction-tuned model, or add a template"
            )
        self._template = tokenizer
        self._tokenizer = tokenizer.backend_tokenizer
        self._encoder = PieceEncoder(self._tokenizer)
        added = tokenizer.added_tokens_decoder
        special = sorted((t.content for t in added.values() if t.special), key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else None
        turn_end = self._turn_end()
        self.end_names = turn_end | {added[i].content for i in end_ids if i in added}
        self.end_ids = end_ids | frozenset(self._encoder.encode([Control(name) for name in sorted(turn_end)]))

    def pieces(self, messages: Sequence[Message], tools: Sequence[Tool], *, generate: bool) -> list[Piece]:
        """Renders a conversation, with the start of the next answer if `generate`."""
        template: Any = self._template
        text: str = template.apply_chat_template(
            [_plain(message) for message in messages],
            tools=[json.loads(tool.definition) for tool in tools] or None,
            add_generation_prompt=generate,
            tokenize=False,
        )
        if self._special is None:
            return [text]
        parts = self._special.split(text)
        return [Control(part) if place % 2 else part for place, part in enumerate(parts) if part]

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of pieces."""
        return self._encoder.encode(pieces)

    def reader(self, stops: Sequence[str]) -> Reader:
        """A reader for one answer, which ends at the first of `stops`."""
        return HermesReader(Detokenizer(self._tokenizer), StopText(stops), end_ids=self.end_ids)

    def _turn_end(self) -> frozenset[str]:
        """The control token that the template puts after an answer."""
        question = Message(role="user", content="a")
        asked = self.pieces([question], [], generate=True)
        answered = self.pieces([question, Message(role="assistant", content="b")], [], generate=False)
        try:
            after = remainder(answered, asked)
        except ConfigError:
            return frozenset()
        return frozenset(piece.token for piece in after[1:2] if isinstance(piece, Control))


def _plain(message: Message) -> dict[str, Json]:
    plain: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.calls:
        plain["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in message.calls
        ]
    if message.tool_call_id:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _arguments(call: Call) -> Json:
    """The arguments as an object, as templates expect them; as they are if they are not JSON."""
    try:
        arguments: Json = json.loads(call.arguments)
    except ValueError:
        return call.arguments
    return arguments


class HermesReader:
    """Reads text and `<tool_call>` blocks; a block that is not a call stays text."""

    def __init__(self, text: Detokenizer, stop: StopText, *, end_ids: frozenset[int]) -> None:
        self._text = text
        self._stop = stop
        self._open = StopText([OPEN])
        self._end_ids = end_ids
        self._block = ""
        self._call = -1

    @property
    def stopped(self) -> bool:
        """A stop string was found."""
        return self._stop.stopped

    def push(self, token: int) -> list[Delta]:
        """What the token adds."""
        return [] if token in self._end_ids else self._add(self._text.push(token))

    def finish(self) -> list[Delta]:
        """What was held back."""
        deltas = self._add(self._text.flush())
        if self._open.stopped:
            return [*deltas, *self._read(self._block), *self._say(self._stop.flush())]
        return [*deltas, *self._say(self._stop.push(self._open.flush())), *self._say(self._stop.flush())]

    def _add(self, text: str) -> list[Delta]:
        if not self._open.stopped:
            deltas = self._say(self._stop.push(self._open.push(text)))
            rest = self._open.rest()
            return [*deltas, *self._add(rest[len(OPEN) :])] if rest else deltas
        self._block += text
        block, closed, after = self._block.partition(CLOSE)
        if not closed:
            return []
        self._block, self._open = "", StopText([OPEN])
        return [*self._read(block, CLOSE), *self._add(after)]

    def _read(self, block: str, close: str = "") -> list[Delta]:
        try:
            call = json.loads(block)
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, TypeError, KeyError):
            return self._say(self._stop.push(OPEN + block + close))
        self._call += 1
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return [Delta(call=self._call, name=str(name), arguments=text)]

    def _say(self, text: str) -> list[Delta]:
        return [Delta(text=text)] if text else []
