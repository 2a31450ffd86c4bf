"""Chat completions as native answers."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text, as_whole
from lightning_plugin_gateway.wires._reasoning import reasoning_of
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._annotations import native_annotations
from lightning_plugin_gateway.wires.responses._ids import IDS, call_id, item_id
from lightning_plugin_gateway.wires.responses._logprobs import entries_of, of_text
from lightning_plugin_gateway.wires.responses._outcome import Outcome
from lightning_plugin_gateway.wires.responses._reasoning import reasoning_item
from lightning_plugin_gateway.wires.responses._to_chat import wants_logprobs
from lightning_plugin_gateway.wires.responses._usage import native_usage

_ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt_cache_key",
    "safety_identifier", "temperature", "top_logprobs", "top_p", "user",
)  # fmt: skip


def native_answer(completion: Body, *, request: Body) -> Body:
    """The native answer: what the first choice says, as there cannot be more; without one, a failed answer."""
    base = IDS.base(completion, request)
    choices = as_objects(completion.get("choices"))
    choice: Body = choices[0] if choices else {"finish_reason": "error"}
    outcome = Outcome.of(choice.get("finish_reason"))
    return {
        **frame(completion, request, base=base),
        **outcome.fields,
        "output": _output(choice, request, base=base, outcome=outcome),
        "usage": native_usage(completion.get("usage")),
    }


def frame(completion: Body, request: Body, *, base: str) -> Body:
    """An answer in progress: who answers, and what was asked.

    Args:
        completion: A completion or its first chunk.
    """
    return {
        "id": IDS.answer(base),
        "object": "response",
        "created_at": as_whole(completion.get("created")),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        **{name: request.get(name) for name in _ECHOED},
        "metadata": request.get("metadata") or {},
        "model": as_text(completion.get("model")) or as_text(request.get("model")),
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "reasoning": request.get("reasoning") or {"effort": None, "summary": None},
        "store": request.get("store") is not False,
        "text": {"format": {"type": "text"}, **as_object(request.get("text"))},
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "truncation": "disabled",
        "usage": None,
    }


def text_part(text: str, *, logprobs: Json = (), annotations: Json = ()) -> Body:
    """A part of a message that is text."""
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def refusal_part(refusal: str) -> Body:
    """A part of a message that is a refusal."""
    return {"type": "refusal", "refusal": refusal}


def message_item(content: Json, *, ident: str, status: str) -> Body:
    """A message of the assistant."""
    return {"id": ident, "type": "message", "role": "assistant", "status": status, "content": content}


def call_item(name: str, arguments: str, *, ident: str, call: str, status: str) -> Body:
    """A call of a function."""
    return {
        "id": ident, "type": "function_call", "call_id": call, "name": name, "arguments": arguments, "status": status,
    }  # fmt: skip


def identified_calls(message: Body, *, base: str) -> list[Body]:
    """The tool calls of a chat message, each with an id."""
    calls = as_objects(message.get("tool_calls"))
    return [{**call, "id": call.get("id") or call_id(base, place=place)} for place, call in enumerate(calls)]


def _output(choice: Body, request: Body, *, base: str, outcome: Outcome) -> list[Body]:
    message = as_object(choice.get("message"))
    calls = identified_calls(message, base=base)
    thought = reasoning_of(message)
    parts = _parts(choice, message, request, called=bool(calls))
    last = bool(thought) + bool(parts) + len(calls) - 1
    items: list[Body] = []

    def status() -> str:
        return outcome.item_status(last=len(items) == last)

    if thought:
        ident = item_id("rs", base, place=0)
        items.append(reasoning_item(thought, ident=ident, request=request, status=status()))
    if parts:
        items.append(message_item(parts, ident=item_id("msg", base, place=0), status=status()))
    for place, call in enumerate(calls):
        function, ident = as_object(call.get("function")), item_id("fc", base, place=place)
        name, arguments = as_text(function.get("name")), as_text(function.get("arguments"))
        items.append(call_item(name, arguments, ident=ident, call=as_text(call["id"]), status=status()))
    return items


def _parts(choice: Body, message: Body, request: Body, *, called: bool) -> list[Body]:
    content, refusal = _text(message.get("content")), as_text(message.get("refusal"))
    parts: list[Body] = []
    if content or (content is not None and not called and not refusal):
        entries = entries_of(choice) if wants_logprobs(request) else []
        logprobs = of_text(entries, content, after=reasoning_of(message))
        annotations = native_annotations(message.get("annotations"))
        parts.append(text_part(content, logprobs=logprobs, annotations=annotations))
    return [*parts, refusal_part(refusal)] if refusal else parts


def _text(content: Json) -> str | None:
    """Content as a text; some servers answer with parts."""
    if isinstance(content, list):
        return "".join(as_text(part.get("text")) for part in as_objects(content))
    return content if isinstance(content, str) else None
