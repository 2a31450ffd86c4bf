"""Bodies of a scripted model that speaks Anthropic's Messages API: a message, or the events of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from agentlightning.testing._scripted_answer import ScriptedAnswer
from agentlightning.types import Json

Object = dict[str, Json]
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def message(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Object:
    """The whole message."""
    return {
        **_frame(answer, request, ident=ident),
        "content": [block for block, _ in _blocks(answer)],
        "stop_reason": _STOPS.get(answer.finish, "end_turn"),
    }


def message_events(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Iterator[bytes]:
    """Server-sent events of a streamed message, each with its blank line."""
    end = answer.newline
    if answer.preamble:
        yield answer.preamble.encode()
    for event in _events(answer, request, ident=ident):
        data = msgspec.json.encode(event).decode()
        yield f"event: {event['type']}{end}data: {data}{end * 2}".encode()


def asked_messages(request: Mapping[str, Json]) -> list[Object]:
    """The system prompt and the messages, each with a role and a content."""
    messages = request.get("messages")
    found = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return [{"role": "system", "content": request["system"]}, *found] if request.get("system") else found


def count(request: Mapping[str, Json]) -> Object:
    """The answer of `count_tokens`."""
    return {"input_tokens": len(ScriptedAnswer().prompt_ids(asked_messages(request)))}


def fault(message: str, *, status: int) -> Object:
    """An error in Anthropic's form."""
    kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
    kind = kinds.get(status, "rate_limit_error" if status == 429 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def _frame(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Object:
    return {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "model": request.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(answer.prompt_ids(asked_messages(request))),
            "output_tokens": len(answer.ids),
        },
    }


def _blocks(answer: ScriptedAnswer) -> list[tuple[Object, Object]]:
    """Content blocks as they are in the end, and as they begin in a stream."""
    found: list[tuple[Object, Object]] = []
    if answer.reasoning:
        block: Object = {"type": "thinking", "thinking": answer.reasoning, "signature": "c2ln"}
        found.append((block, {**block, "thinking": "", "signature": ""}))
    if answer.text or not answer.tool_calls:
        found.append(({"type": "text", "text": answer.text}, {"type": "text", "text": ""}))
    for place, call in enumerate(answer.tool_calls):
        head: Object = {"type": "tool_use", "id": call.id or f"toolu_{place}", "name": call.name, "input": {}}
        found.append(({**head, "input": msgspec.json.decode(call.text)}, head))
    return found


def _events(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Iterator[Object]:
    frame = _frame(answer, request, ident=ident)
    usage = {"input_tokens": len(answer.prompt_ids(asked_messages(request))), "output_tokens": 1}
    yield {"type": "message_start", "message": {**frame, "usage": usage}}
    calls = iter(answer.tool_calls)
    for place, (block, begun) in enumerate(_blocks(answer)):
        yield {"type": "content_block_start", "index": place, "content_block": begun}
        text = next(calls).text if block["type"] == "tool_use" else str(block.get("text", answer.reasoning))
        kind, name = {
            "text": ("text_delta", "text"),
            "thinking": ("thinking_delta", "thinking"),
            "tool_use": ("input_json_delta", "partial_json"),
        }[str(block["type"])]
        for start in range(0, len(text), answer.chunk_chars):
            piece = text[start : start + answer.chunk_chars]
            yield {"type": "content_block_delta", "index": place, "delta": {"type": kind, name: piece}}
        if block["type"] == "thinking":
            delta = {"type": "signature_delta", "signature": block["signature"]}
            yield {"type": "content_block_delta", "index": place, "delta": delta}
        yield {"type": "content_block_stop", "index": place}
    if answer.error_event:
        yield {"type": "error", "error": {"type": "api_error", "message": answer.error_event}}
        return
    stop = {"stop_reason": _STOPS.get(answer.finish, "end_turn"), "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": len(answer.ids)}}
    yield {"type": "message_stop"}
