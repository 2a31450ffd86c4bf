"""Chat messages in span attributes, in any of the forms that are found, as lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from agentlightning.cli._output import shortened
from agentlightning.types import Json


@dataclass(frozen=True, slots=True)
class Message:
    """One message: who says what."""

    role: str
    lines: tuple[str, ...]


def messages_of(attribute: Json) -> list[Message]:
    """Messages from a span attribute: OpenTelemetry's parts or OpenAI's content, structured or as JSON text."""
    if isinstance(attribute, str):
        try:
            attribute = msgspec.json.decode(attribute)
        except msgspec.DecodeError:
            return [Message("", (str(attribute),))]
    if isinstance(attribute, Mapping):
        attribute = [attribute]
    if not isinstance(attribute, Sequence) or isinstance(attribute, str | bytes):
        return []
    return [_message(one) for one in attribute if isinstance(one, Mapping)]


def _message(found: Mapping[str, Json]) -> Message:
    lines: list[str] = []
    for part in _sequence(found.get("parts")):
        lines += _part(part) if isinstance(part, Mapping) else [str(part)]
    lines += _content(found.get("content"))
    for call in _sequence(found.get("tool_calls")):
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            lines.append(_call(function.get("name"), function.get("arguments")))
    return Message(str(found.get("role") or ""), tuple(lines))


def _part(part: Mapping[str, Json]) -> list[str]:
    match part.get("type"):
        case "tool_call":
            return [_call(part.get("name"), part.get("arguments"))]
        case "tool_call_response":
            return [f"= {_text(part.get('response', part.get('result')))}"]
        case "reasoning":
            return [f"(thinks) {_text(part.get('content'))}"]
        case kind:
            text = part.get("content", part.get("text"))
            return [_text(text) if text is not None else f"[{kind}]"]


def _content(content: Json) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    parts = [part for part in _sequence(content) if isinstance(part, Mapping)]
    return [line for part in parts for line in _part(part)]


def _call(name: Json, arguments: Json) -> str:
    text = arguments if isinstance(arguments, str) else shortened(arguments, 200)
    return f"→ {name}({text})"


def _text(value: Json) -> str:
    return value if isinstance(value, str) else shortened(value, 500)


def _sequence(value: Json) -> Sequence[Json]:
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()
