"""Chat messages of the OpenAI API in the form of the OpenTelemetry GenAI conventions: a role and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from agentlightning.types import Json


def field(value: object, name: str) -> object:
    """A field of a dict or a pydantic model; None if it is not there."""
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None)


def items(value: object) -> Sequence[object]:
    """The elements of a list or tuple; empty for everything else."""
    return value if isinstance(value, list | tuple) else ()


def input_messages(messages: Iterable[object]) -> list[Json]:
    """What the model is shown."""
    return [{"role": field(message, "role"), "parts": _parts(message)} for message in messages]


def output_messages(choices: Iterable[object]) -> list[Json]:
    """What the model answered, one message for each choice."""
    found: list[Json] = []
    for choice in choices:
        message = field(choice, "message")
        found.append(
            {
                "role": field(message, "role") or "assistant",
                "parts": _parts(message),
                "finish_reason": field(choice, "finish_reason"),
            }
        )
    return found


def _parts(message: object) -> list[Json]:
    content = field(message, "content")
    if field(message, "role") == "tool":
        return [
            {
                "type": "tool_call_response",
                "id": field(message, "tool_call_id"),
                "response": _response(content),
            }
        ]
    parts: list[Json] = []
    for name, kind in (("reasoning_content", "reasoning"), ("refusal", "refusal")):
        if text := field(message, name):
            parts.append({"type": kind, "content": text})
    if isinstance(content, str):
        parts.append({"type": "text", "content": content})
    else:
        parts += [_part(part) for part in items(content)]
    parts += [_tool_call(call) for call in items(field(message, "tool_calls"))]
    return parts


def _response(content: object) -> Json:
    return content if isinstance(content, str) else [_part(part) for part in items(content)]


def _part(part: object) -> Json:
    match field(part, "type"):
        case "text":
            return {"type": "text", "content": field(part, "text")}
        case "image_url":
            return {"type": "uri", "modality": "image", "uri": field(field(part, "image_url"), "url")}
        case _:
            dump = getattr(part, "model_dump", None)
            return cast("Json", dump(exclude_none=True)) if callable(dump) else part


def _tool_call(call: object) -> Json:
    function = field(call, "function")
    return {
        "type": "tool_call",
        "id": field(call, "id"),
        "name": field(function, "name"),
        "arguments": field(function, "arguments"),
    }
