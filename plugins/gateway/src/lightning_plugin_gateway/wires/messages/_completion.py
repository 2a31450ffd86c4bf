"""Native answers as chat completions."""

from __future__ import annotations

from lightning_plugin_gateway.wires._failures import unreadable
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._arguments import arguments_of
from lightning_plugin_gateway.wires.messages._failures import told
from lightning_plugin_gateway.wires.messages._ids import IDS
from lightning_plugin_gateway.wires.messages._outcome import finish_fields
from lightning_plugin_gateway.wires.messages._thinking import chat_reasoning, is_thinking
from lightning_plugin_gateway.wires.messages._usage import chat_usage

_TIERS = {"standard": "default", "priority": "priority"}


def chat_completion(answer: Body) -> Body:
    """The chat completion that says what an answer says; what its server's own tools did is left out.

    Raises:
        ApiError: It tells of an error, or is no answer.
    """
    if answer.get("type") == "error":
        raise told(answer.get("error"))
    if not isinstance(answer.get("content"), list):
        raise unreadable(f"`content` is {answer.get('content')!r:.80}, not a list of blocks")
    message = _message(as_objects(answer["content"]))
    finish = finish_fields(answer, called="tool_calls" in message)
    completion: Body = {
        **chat_frame(answer),
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, **finish}],
    }
    if usage := chat_usage(answer.get("usage")):
        completion["usage"] = usage
    return completion


def chat_frame(answer: Body) -> Body:
    """What tells which answer a completion or chunk is; native answers do not say when they were made."""
    frame: Body = {
        "id": IDS.completion(as_text(answer.get("id"))),
        "created": 0,
        "model": as_text(answer.get("model")),
    }
    tier = _TIERS.get(as_text(as_object(answer.get("usage")).get("service_tier")))
    return {**frame, "service_tier": tier} if tier else frame


def chat_call(block: Body, arguments: str) -> Body:
    """The tool call of a block."""
    function = {"name": as_text(block.get("name")), "arguments": arguments}
    return {"id": as_text(block.get("id")), "type": "function", "function": function}


def _message(blocks: list[Body]) -> Body:
    texts = [as_text(block.get("text")) for block in blocks if block.get("type") == "text"]
    message: Body = {"role": "assistant", "content": "".join(texts) if texts else None}
    message |= chat_reasoning([block for block in blocks if is_thinking(block)])
    calls = [
        chat_call(block, arguments_of(as_object(block.get("input"))))
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    if calls:
        message["tool_calls"] = [*calls]
    return message
