"""Chat completions as native answers."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._failures import unreadable
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._arguments import input_of
from lightning_plugin_gateway.wires.messages._ids import IDS, call_id
from lightning_plugin_gateway.wires.messages._outcome import stop_fields
from lightning_plugin_gateway.wires.messages._thinking import is_omitted, thinking_blocks
from lightning_plugin_gateway.wires.messages._usage import native_usage


def native_answer(completion: Body, *, request: Body) -> Body:
    """The native answer: what the first choice says, as there cannot be more.

    Raises:
        ApiError: 502, there is no choice, or the model's server gave up.
    """
    choices = as_objects(completion.get("choices"))
    if not choices:
        raise unreadable("the completion has no choices")
    base = IDS.base(completion, request)
    message = as_object(choices[0].get("message"))
    calls = as_objects(message.get("tool_calls"))
    refusal = as_text(message.get("refusal"))
    blocks = thinking_blocks(message, omitted=is_omitted(request))
    blocks += [text_block(text) for text in (said(message.get("content")), refusal) if text]
    blocks += [_call_block(call, base=base, place=place) for place, call in enumerate(calls)]
    return {
        **frame(completion, request, base=base),
        **stop_fields(choices[0], request, called=bool(calls), refused=bool(refusal)),
        "content": blocks or [text_block("")],
        "usage": native_usage(completion.get("usage"), tier=completion.get("service_tier")),
    }


def frame(completion: Body, request: Body, *, base: str) -> Body:
    """An answer that has yet to say something.

    Args:
        completion: A completion or its first chunk.
        request: The native request.
        base: What its ids have in common.
    """
    return {
        "id": IDS.answer(base),
        "type": "message",
        "role": "assistant",
        "model": as_text(completion.get("model")) or as_text(request.get("model")),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def text_block(text: str) -> Body:
    """A block that is text."""
    return {"type": "text", "text": text}


def call_block(name: str, given: Body, *, ident: str) -> Body:
    """A block that is a tool call."""
    return {"type": "tool_use", "id": ident, "name": name, "input": given}


def said(content: Json) -> str:
    """Content as a text; some servers answer with parts."""
    if isinstance(content, list):
        return "".join(as_text(part.get("text")) for part in as_objects(content))
    return as_text(content)


def _call_block(call: Body, *, base: str, place: int) -> Body:
    function = as_object(call.get("function"))
    ident = call_id(call.get("id"), base=base, place=place)
    return call_block(
        as_text(function.get("name")), input_of(as_text(function.get("arguments"))), ident=ident
    )
