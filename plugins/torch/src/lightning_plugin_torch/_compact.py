"""The chat format of built models: short, with control tokens for roles and tool calls.

A tool call is `<|call|>NAME ARGUMENTS`, with the arguments string of the wire as it is; several calls follow each other
before `<|end|>`.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from lightning_plugin_torch._format import Delta, Reader
from lightning_plugin_torch._messages import Call, Message, Tool
from lightning_plugin_torch._pieces import Control, Piece, PieceEncoder
from lightning_plugin_torch._text import Detokenizer, StopText

PAD, CALL, END = "<|pad|>", "<|call|>", "<|end|>"
CONTROL_TOKENS = (PAD, "<|system|>", "<|user|>", "<|assistant|>", CALL, "<|tool|>", END)

CHAT_TEMPLATE = (
    "{%- macro listed() -%}{%- for tool in tools or [] -%}"
    "{{ '\\n' + tool.function.name }}({{ (tool.function.parameters or {}).get('properties', {}) | join(', ') }})"
    "{%- endfor -%}{%- endmacro -%}"
    "{%- if tools and messages[0].role not in ['system', 'developer'] -%}<|system|>{{ listed() }}<|end|>{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set role = 'system' if message.role == 'developer' else message.role -%}"
    "<|{{ role }}|>{{ message.content or '' }}"
    "{%- if loop.first and role == 'system' -%}{{ listed() }}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}<|call|>{{ call.function.name }}"
    "{%- if call.function.arguments %}{{ ' ' + call.function.arguments }}{% endif -%}"
    "{%- endfor -%}<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
"""The same format for other programs; text that contains a control token's name is safe in `pieces` only."""


def pieces(messages: Sequence[Message], tools: Sequence[Tool], *, generate: bool) -> list[Piece]:
    """Renders a conversation."""
    listed = "".join(f"\n{tool.name}({', '.join(tool.arguments)})" for tool in tools)
    rendered: list[Piece] = []
    if listed and messages[0].role != "system":
        rendered += _turn("system", listed)
    for index, message in enumerate(messages):
        text = message.content + (listed if index == 0 and message.role == "system" else "")
        rendered += _turn(message.role, text, calls=message.calls)
    if generate:
        rendered.append(Control("<|assistant|>"))
    return rendered


def _turn(role: str, text: str, *, calls: Sequence[Call] = ()) -> list[Piece]:
    turn: list[Piece] = [Control(f"<|{role}|>")]
    if text:
        turn.append(text)
    for call in calls:
        turn += [Control(CALL), f"{call.name} {call.arguments}" if call.arguments else call.name]
    return [*turn, Control(END)]


class CompactFormat:
    """The format of a model that was built here."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._encoder = PieceEncoder(self._tokenizer)
        self.end_names = frozenset({END})
        self.end_ids = frozenset(self._encoder.encode([Control(END)]))
        self._call_id = self._encoder.encode([Control(CALL)])[0]

    def pieces(self, messages: Sequence[Message], tools: Sequence[Tool], *, generate: bool) -> list[Piece]:
        """Renders a conversation, with the start of the next answer if `generate`."""
        return pieces(messages, tools, generate=generate)

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of pieces."""
        return self._encoder.encode(pieces)

    def reader(self, stops: Sequence[str]) -> Reader:
        """A reader for one answer, which ends at the first of `stops`."""
        return CompactReader(
            Detokenizer(self._tokenizer), StopText(stops), call_id=self._call_id, end_ids=self.end_ids
        )


class CompactReader:
    """Reads text and `<|call|>NAME ARGUMENTS` as they come."""

    def __init__(self, text: Detokenizer, stop: StopText, *, call_id: int, end_ids: frozenset[int]) -> None:
        self._text = text
        self._stop = stop
        self._call_id = call_id
        self._end_ids = end_ids
        self._call = -1
        self._name: str | None = None

    @property
    def stopped(self) -> bool:
        """A stop string was found."""
        return self._stop.stopped

    def push(self, token: int) -> list[Delta]:
        """What the token adds."""
        if token in self._end_ids:
            return []
        if token != self._call_id:
            return self._add(self._text.push(token))
        deltas = self._flush()
        self._call, self._name = self._call + 1, ""
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back."""
        return self._flush()

    def _add(self, text: str) -> list[Delta]:
        if self._call < 0:
            text = self._stop.push(text)
            return [Delta(text=text)] if text else []
        if self._name is None:
            return [Delta(call=self._call, arguments=text)] if text else []
        self._name += text
        name, space, arguments = self._name.partition(" ")
        if not space:
            return []
        self._name = None
        return [Delta(call=self._call, name=name, arguments=arguments)]

    def _flush(self) -> list[Delta]:
        deltas = self._add(self._text.flush())
        if self._call < 0:
            rest = self._stop.flush()
            return [*deltas, Delta(text=rest)] if rest else deltas
        if self._name is not None:
            deltas.append(Delta(call=self._call, name=self._name))
            self._name = None
        return deltas
