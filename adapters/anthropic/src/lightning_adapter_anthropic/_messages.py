"""Span attributes of a call of the Messages API, and a streamed answer put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agentlightning import semconv
from agentlightning.capture.content import to_text
from agentlightning.capture.http import decode, events
from agentlightning.types import Json

Attributes = dict[str, str | bool | int | float | Sequence[str]]
_Body = dict[str, Json]
_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_DELTAS: Final = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("partial_json", "input"),
}


def request_attributes(body: Mapping[str, object], *, content: bool) -> Attributes:
    """What is asked. `content` says whether messages and tools are recorded."""
    found: Attributes = {
        semconv.OPERATION: semconv.OPERATION_CHAT,
        semconv.PROVIDER: "anthropic",
        semconv.REQUEST_STREAM: body.get("stream") is True,
    }
    model, temperature, longest = body.get("model"), body.get("temperature"), body.get("max_tokens")
    if isinstance(model, str):
        found[semconv.REQUEST_MODEL] = model
    if isinstance(temperature, int | float):
        found[semconv.REQUEST_TEMPERATURE] = float(temperature)
    if isinstance(longest, int):
        found[semconv.REQUEST_MAX_TOKENS] = longest
    if content:
        if system := body.get("system"):
            found[semconv.SYSTEM_INSTRUCTIONS] = to_text(plain_parts(system))
        found[semconv.INPUT_MESSAGES] = to_text(
            [_message(message) for message in _items(body.get("messages"))]
        )
        if tools := _items(body.get("tools")):
            found[semconv.TOOL_DEFINITIONS] = to_text([_plain(tool) for tool in tools])
    return found


def response_attributes(message: object, *, content: bool) -> Attributes:
    """What came back: a `Message` or one as plain data."""
    found: Attributes = {}
    for key, name in ((semconv.RESPONSE_ID, "id"), (semconv.RESPONSE_MODEL, "model")):
        value = _field(message, name)
        if isinstance(value, str):
            found[key] = value
    reason = _field(message, "stop_reason")
    finish = _REASONS.get(str(reason), str(reason or ""))
    found[semconv.FINISH_REASONS] = [finish]
    usage = _field(message, "usage")
    read = [_field(usage, name) for name in _READ]
    if isinstance(read[0], int):
        found[semconv.INPUT_TOKENS] = sum(count for count in read if isinstance(count, int))
    sampled = _field(usage, "output_tokens")
    if isinstance(sampled, int):
        found[semconv.OUTPUT_TOKENS] = sampled
    if content:
        answer = {
            "role": "assistant",
            "parts": plain_parts(_field(message, "content")),
            "finish_reason": finish,
        }
        found[semconv.OUTPUT_MESSAGES] = to_text([answer])
    return found


_READ: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""Prompt tokens by where they came from; `input_tokens` alone leaves the cached ones out."""


def fold(data: bytes) -> tuple[_Body, bool]:
    """Puts a response body together.

    Returns:
        The message as far as it came, with the `error` of an error event; and whether it came to its end.
    """
    if data.lstrip()[:1] == b"{":
        body = decode(data)
        return body, bool(body)
    message: _Body = {}
    blocks: dict[int, _Body] = {}
    complete = False
    for event in events(data):
        match event.get("type"):
            case "message_start":
                message = {**_object(event.get("message"))}
            case "content_block_start":
                blocks[_index(event)] = {**_object(event.get("content_block"))}
            case "content_block_delta":
                _add(blocks.setdefault(_index(event), {}), event.get("delta"))
            case "message_delta":
                message |= _object(event.get("delta"))
                message["usage"] = {**_object(message.get("usage")), **_object(event.get("usage"))}
            case "message_stop":
                complete = True
            case "error":
                message["error"] = event.get("error")
    message["content"] = [_finished(block) for _, block in sorted(blocks.items())]
    return message, complete


def _add(block: _Body, delta: Json) -> None:
    found = _object(delta)
    name, into = _DELTAS.get(str(found.get("type")), ("", ""))
    if name:
        before = block.get(into)
        block[into] = (before if isinstance(before, str) else "") + str(found.get(name) or "")


def _finished(block: _Body) -> _Body:
    given = block.get("input")
    if isinstance(given, str):
        return {**block, "input": decode(given.encode()) or given}
    return block


def _message(message: object) -> Json:
    parts = plain_parts(_field(message, "content"))
    results = [part for part in parts if isinstance(part, dict) and part.get("type") == "tool_call_response"]
    role = "tool" if results and len(results) == len(parts) else _field(message, "role")
    return {"role": role, "parts": parts}


def plain_parts(content: object) -> list[Json]:
    """Content of a message or of a tool's result in the form of the conventions: a text, or blocks."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    return [_part(block) for block in _items(content)]


def _part(block: object) -> Json:
    match _field(block, "type"):
        case "text":
            return {"type": "text", "content": _field(block, "text")}
        case "thinking":
            return {"type": "reasoning", "content": _field(block, "thinking")}
        case "tool_use":
            arguments = _plain(_field(block, "input"))
            return {
                "type": "tool_call",
                "id": _field(block, "id"),
                "name": _field(block, "name"),
                "arguments": arguments if isinstance(arguments, str) else to_text(arguments),
            }
        case "tool_result":
            given = _field(block, "content")
            response = given if isinstance(given, str) else plain_parts(given)
            return {"type": "tool_call_response", "id": _field(block, "tool_use_id"), "response": response}
        case _:
            return _plain(block)


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else []


def _object(value: object) -> _Body:
    return value if isinstance(value, dict) else {}


def _index(event: _Body) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0


def _plain(value: object) -> Json:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json", exclude_unset=True) if callable(dump) else value
