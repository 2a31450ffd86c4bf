"""Bodies of a scripted model that speaks OpenAI's Responses API: a response, or the events of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from agentlightning.testing._scripted_answer import ScriptedAnswer
from agentlightning.types import Json

Object = dict[str, Json]


def response(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Object:
    """The whole response."""
    return _frame(answer, request, ident=ident, output=[item for item, _ in _items(answer, ident=ident)])


def response_events(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Iterator[bytes]:
    """Server-sent events of a streamed response, each with its blank line."""
    end = answer.newline
    if answer.preamble:
        yield answer.preamble.encode()
    for number, event in enumerate(_events(answer, request, ident=ident)):
        data = msgspec.json.encode({**event, "sequence_number": number}).decode()
        yield f"event: {event['type']}{end}data: {data}{end * 2}".encode()


def asked_input(request: Mapping[str, Json]) -> list[Object]:
    """The input as messages with a role and a content, whichever form it came in."""
    given = request.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    return [
        {"role": item.get("role") or item.get("type"), "content": item.get("content") or item.get("output")}
        for item in found
    ]


def _frame(
    answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str, output: list[Json], done: bool = True
) -> Object:
    cut = answer.finish == "length"
    body: Object = {
        "id": ident,
        "object": "response",
        "created_at": 0,
        "status": ("incomplete" if cut else "completed") if done else "in_progress",
        "incomplete_details": {"reason": "max_output_tokens"} if cut and done else None,
        "error": None,
        "instructions": request.get("instructions"),
        "model": request.get("model"),
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "metadata": request.get("metadata") or {},
        "usage": None,
    }
    if answer.usage and done:
        prompt, sampled = len(answer.prompt_ids(asked_input(request))), len(answer.ids)
        body["usage"] = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": sampled,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + sampled,
        }
    return body


def _items(answer: ScriptedAnswer, *, ident: str) -> list[tuple[Object, str]]:
    """Output items, each with the text that is streamed for it."""
    found: list[tuple[Object, str]] = []
    if answer.reasoning:
        summary = [{"type": "summary_text", "text": answer.reasoning}]
        found.append(({"type": "reasoning", "id": f"rs_{ident}", "summary": summary}, ""))
    if answer.text or not answer.tool_calls:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        message: Object = {
            "type": "message",
            "id": f"msg_{ident}",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        found.append((message, answer.text))
    for place, call in enumerate(answer.tool_calls):
        item: Object = {
            "type": "function_call",
            "id": f"fc_{ident}_{place}",
            "call_id": call.id or f"call_{place}",
            "name": call.name,
            "arguments": call.text,
            "status": "completed",
        }
        found.append((item, call.text))
    return found


def _events(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Iterator[Object]:
    begun = _frame(answer, request, ident=ident, output=[], done=False)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    items = _items(answer, ident=ident)
    for place, (item, text) in enumerate(items):
        yield from _item_events(item, text, place=place, size=answer.chunk_chars)
    if answer.error_event:
        yield {"type": "error", "code": "server_error", "message": answer.error_event, "param": None}
        return
    whole = _frame(answer, request, ident=ident, output=[item for item, _ in items])
    yield {"type": f"response.{whole['status']}", "response": whole}


def _item_events(item: Object, text: str, *, place: int, size: int) -> Iterator[Object]:
    where: Object = {"item_id": item["id"], "output_index": place}
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    empties: dict[str, Object] = {"message": {"content": []}, "function_call": {"arguments": ""}}
    yield {
        "type": "response.output_item.added",
        "output_index": place,
        "item": {**item, **empties.get(str(item["type"]), {}), "status": "in_progress"},
    }
    if item["type"] == "message":
        where["content_index"] = 0
        part: Object = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield {"type": "response.content_part.added", **where, "part": part}
        for piece in pieces:
            yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **where, "text": text, "logprobs": []}
        yield {"type": "response.content_part.done", **where, "part": {**part, "text": text}}
    elif item["type"] == "function_call":
        for piece in pieces:
            yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
        yield {
            "type": "response.function_call_arguments.done",
            **where,
            "name": item["name"],
            "arguments": text,
        }
    yield {"type": "response.output_item.done", "output_index": place, "item": item}
