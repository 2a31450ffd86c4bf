"""Native answers as chat completions."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._failures import unreadable
from lightning_plugin_gateway.wires._narrow import as_objects, as_text, as_whole
from lightning_plugin_gateway.wires._reasoning import PARAGRAPH
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._annotations import chat_annotations
from lightning_plugin_gateway.wires.responses._ids import IDS
from lightning_plugin_gateway.wires.responses._logprobs import chat_logprobs
from lightning_plugin_gateway.wires.responses._outcome import finish_reason
from lightning_plugin_gateway.wires.responses._reasoning import text_of_item
from lightning_plugin_gateway.wires.responses._usage import chat_usage


def chat_completion(answer: Body) -> Body:
    """The chat completion that says what an answer says. Raises `ApiError` 502 if it failed or is none."""
    if not isinstance(answer.get("output"), list):
        raise unreadable(f"`output` is {answer.get('output')!r:.80}, not a list of items")
    items = as_objects(answer["output"])
    message, logprobs = _message(items)
    reason = finish_reason(answer, called="tool_calls" in message)
    choice: Body = {
        "index": 0,
        "message": message,
        "finish_reason": reason,
        "logprobs": chat_logprobs(logprobs),
    }
    completion: Body = {**chat_frame(answer), "object": "chat.completion", "choices": [choice]}
    if usage := chat_usage(answer.get("usage")):
        completion["usage"] = usage
    return completion


def chat_frame(answer: Body) -> Body:
    """What tells which answer a completion or chunk is."""
    return {
        "id": IDS.completion(as_text(answer.get("id"))),
        "created": as_whole(answer.get("created_at")),
        "model": as_text(answer.get("model")),
    }


def chat_call(item: Body) -> Body | None:
    """The tool call of an item; None if it is none."""
    ident = as_text(item.get("call_id")) or as_text(item.get("id"))
    name = as_text(item.get("name"))
    if item.get("type") == "function_call":
        function = {"name": name, "arguments": as_text(item.get("arguments"))}
        return {"id": ident, "type": "function", "function": function}
    if item.get("type") == "custom_tool_call":
        return {"id": ident, "type": "custom", "custom": {"name": name, "input": as_text(item.get("input"))}}
    return None


def _message(items: list[Body]) -> tuple[Body, list[Json]]:
    parts = [
        part for item in items if item.get("type") == "message" for part in as_objects(item.get("content"))
    ]
    texts = [part for part in parts if part.get("type") == "output_text"]
    message: Body = {"role": "assistant", "content": None}
    if texts:
        message["content"] = "".join(as_text(part.get("text")) for part in texts)
    refusals = [as_text(part.get("refusal")) for part in parts if part.get("type") == "refusal"]
    if refusals:
        message["refusal"] = "".join(refusals)
    thoughts = [text_of_item(item) for item in items if item.get("type") == "reasoning"]
    if any(thoughts):
        message["reasoning_content"] = PARAGRAPH.join(thought for thought in thoughts if thought)
    if annotations := [one for part in texts for one in chat_annotations(part.get("annotations"))]:
        message["annotations"] = annotations
    if calls := [call for call in map(chat_call, items) if call]:
        message["tool_calls"] = calls
    return message, [entry for part in texts for entry in as_objects(part.get("logprobs"))]
