"""LangChain's messages in the form of the OpenTelemetry GenAI conventions: a role and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from agentlightning.capture.content import to_text as json_text
from agentlightning.types import Json

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}


def to_text(value: object) -> str:
    """A value as JSON text; what JSON cannot express is described rather than refused."""
    return json_text(value, plain=_plain)


def input_messages(messages: Iterable[BaseMessage]) -> list[Json]:
    """What the model is shown."""
    return [{"role": role(message), "parts": parts(message)} for message in messages]


def role(message: BaseMessage) -> str:
    """Who speaks."""
    kind = message.type.removesuffix("MessageChunk").lower()
    return _ROLES.get(kind) or str(getattr(message, "role", kind))


def parts(message: BaseMessage) -> list[Json]:
    """What is said."""
    if isinstance(message, ToolMessage):
        response = message.content if isinstance(message.content, str) else _parts(message)
        return [{"type": "tool_call_response", "id": message.tool_call_id, "response": response}]
    found = _parts(message)
    if isinstance(message, AIMessage):
        found += [
            {"type": "tool_call", "id": call["id"], "name": call["name"], "arguments": to_text(call["args"])}
            for call in message.tool_calls
        ]
    return found


def _parts(message: BaseMessage) -> list[Json]:
    if isinstance(message.content, str):
        return [{"type": "text", "content": message.content}] if message.content else []
    return [
        _part(block)
        for block in message.content_blocks
        if block["type"] != "tool_call"  # an assistant's are told apart
    ]


def _part(block: Mapping[str, Any]) -> Json:
    match block.get("type"):
        case "text":
            return {"type": "text", "content": block.get("text")}
        case "reasoning":
            return {"type": "reasoning", "content": block.get("reasoning")}
        case "image" if block.get("url"):
            return {"type": "uri", "modality": "image", "uri": block["url"]}
        case _:
            return dict(block)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) and not isinstance(value, type) else repr(value)
