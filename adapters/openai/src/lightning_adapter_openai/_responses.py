"""The Responses API: span attributes of a response, and a streamed one put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentlightning import semconv
from agentlightning.capture.content import to_text
from agentlightning.capture.http import decode, events
from agentlightning.types import Json
from lightning_adapter_openai._describe import Attributes, answered, asked
from lightning_adapter_openai._messages import field, items

_Body = dict[str, Json]
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


def request_attributes(request: Mapping[str, object], content: bool) -> Attributes:
    """What is asked. `content` says whether instructions, items and tools are recorded."""
    longest = request.get("max_output_tokens")
    found = asked(request, operation=semconv.OPERATION_CHAT, longest=longest)
    if content:
        instructions, conversation = request.get("instructions"), request.get("conversation")
        if isinstance(instructions, str):
            found[semconv.SYSTEM_INSTRUCTIONS] = to_text([{"type": "text", "content": instructions}])
        if isinstance(conversation, str):
            found[semconv.CONVERSATION_ID] = conversation
        found[semconv.INPUT_MESSAGES] = to_text(input_messages(request.get("input")))
        if tools := items(request.get("tools")):
            found[semconv.TOOL_DEFINITIONS] = to_text([_plain(tool) for tool in tools])
    return found


def response_attributes(response: object, content: bool) -> Attributes:
    """What came back: a `Response` or one as plain data."""
    found = answered(response, usage=("input_tokens", "output_tokens"))
    output = items(field(response, "output"))
    reason = _finish_reason(response, output)
    found[semconv.FINISH_REASONS] = [reason]
    if content:
        parts = [part for item in output for part in _parts(item)]
        found[semconv.OUTPUT_MESSAGES] = to_text(
            [{"role": "assistant", "parts": parts, "finish_reason": reason}]
        )
    return found


def input_messages(given: object) -> list[Json]:
    """What the model is shown: a text, or items."""
    if isinstance(given, str):
        return [{"role": "user", "parts": [{"type": "text", "content": given}]}]
    return [{"role": _role(item), "parts": _parts(item)} for item in items(given)]


def _role(item: object) -> object:
    if str(field(item, "type") or "").endswith("_output"):
        return "tool"
    return field(item, "role") or "assistant"


def _parts(item: object) -> list[Json]:
    match field(item, "type"):
        case "function_call":
            return [
                {
                    "type": "tool_call",
                    "id": field(item, "call_id"),
                    "name": field(item, "name"),
                    "arguments": field(item, "arguments"),
                }
            ]
        case "function_call_output":
            return [
                {
                    "type": "tool_call_response",
                    "id": field(item, "call_id"),
                    "response": _plain(field(item, "output")),
                }
            ]
        case "reasoning":
            texts = [*items(field(item, "summary")), *items(field(item, "content"))]
            return [{"type": "reasoning", "content": field(text, "text")} for text in texts]
        case None | "message":
            content = field(item, "content")
            if isinstance(content, str):
                return [{"type": "text", "content": content}]
            return [_content(part) for part in items(content)]
        case _:
            return [_plain(item)]


def _content(part: object) -> Json:
    match field(part, "type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "content": field(part, "text")}
        case "refusal":
            return {"type": "refusal", "content": field(part, "refusal")}
        case "input_image" if field(part, "image_url"):
            return {"type": "uri", "modality": "image", "uri": field(part, "image_url")}
        case _:
            return _plain(part)


def _plain(value: object) -> Json:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", exclude_unset=True)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _finish_reason(response: object, output: Sequence[object]) -> str:
    status = field(response, "status")
    if status == "incomplete":
        reason = field(field(response, "incomplete_details"), "reason")
        return _REASONS.get(str(reason), "length")
    if status != "completed":
        return "error" if status == "failed" else ""
    return "tool_calls" if any(field(item, "type") == "function_call" for item in output) else "stop"


def fold(data: bytes) -> tuple[_Body, bool]:
    """Puts a response body together.

    Returns:
        The response as far as it came, with the `error` of an error event; and whether it came to its end.
    """
    if data.lstrip()[:1] == b"{":
        body = decode(data)
        return body, bool(body)
    response: _Body = {}
    output: dict[int, Json] = {}
    texts: dict[int, list[str]] = {}
    for event in events(data):
        kind, place = event.get("type"), event.get("output_index")
        found = event.get("response")
        if isinstance(found, dict):
            response = found
            if kind in _LAST:
                return response, kind != "response.failed"
        elif kind == "error":
            response = {**response, "error": {"message": event.get("message")}}
        elif kind == "response.output_item.done" and isinstance(place, int):
            output[place] = event.get("item")
        elif kind == "response.output_text.delta" and isinstance(place, int):
            texts.setdefault(place, []).append(str(event.get("delta") or ""))
    for place, parts in texts.items():
        output.setdefault(place, {"type": "message", "content": "".join(parts)})
    return {**response, "output": [item for _, item in sorted(output.items())]}, False
