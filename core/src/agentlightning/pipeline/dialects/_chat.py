"""Captured messages and tools in the form of chat completions, which chat templates and fine-tuning take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from agentlightning.pipeline.dialects._meaning import mappings
from agentlightning.types import Json


def chat_messages(captured: Json) -> list[dict[str, Json]]:
    """Messages as chat completions have them, from spans of any source.

    Args:
        captured: A list of messages, with `parts` as the GenAI conventions have them or with `content` as chat
            completions do. Anything else is no message.
    """
    return [found for each in mappings(captured) for found in _messages(each)]


def chat_tools(captured: Json) -> list[dict[str, Json]]:
    """Tool definitions as chat completions have them: each with its `function`."""
    return [_tool(tool) for tool in mappings(captured)]


def _messages(captured: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """The message; several if it answers several tool calls, each of which chat completions answer by themselves."""
    if "parts" not in captured:
        yield {key: value for key, value in captured.items() if value is not None or key == "content"}
        return
    role, parts = str(captured.get("role") or "user"), mappings(captured.get("parts"))
    answers = [part for part in parts if part.get("type") == "tool_call_response"]
    for part in answers:
        response = part.get("response", part.get("result"))
        yield {"role": "tool", "tool_call_id": part.get("id"), "content": _written(response)}
    others = [part for part in parts if part not in answers]
    if answers and not others:
        return
    calls: list[Json] = [_call(part) for part in others if part.get("type") == "tool_call"]
    content = _content([part for part in others if part.get("type") not in {"tool_call", "reasoning"}])
    found: dict[str, Json] = {"role": role, "content": content}
    thoughts = [str(part.get("content") or "") for part in others if part.get("type") == "reasoning"]
    if thoughts:
        found["reasoning_content"] = "".join(thoughts)
    if calls:
        yield found | {"content": content or None, "tool_calls": calls}
    else:
        yield found


def _content(parts: list[dict[str, Json]]) -> Json:
    if all(part.get("type") == "text" for part in parts):
        return "".join(_written(part.get("content", part.get("text"))) for part in parts)
    return [
        {"type": "text", "text": _written(part.get("content", part.get("text")))}
        if part.get("type") == "text"
        else part
        for part in parts
    ]


def _call(part: Mapping[str, Json]) -> Json:
    arguments = part.get("arguments")
    function: Json = {
        "name": part.get("name"),
        "arguments": "{}" if arguments is None else _written(arguments),
    }
    return {"id": part.get("id"), "type": "function", "function": function}


def _tool(tool: dict[str, Json]) -> dict[str, Json]:
    if isinstance(tool.get("function"), dict):
        return tool
    names = ("name", "description", "parameters")
    schema = tool.get("input_schema", tool.get("inputSchema"))
    function = {name: tool[name] for name in names if name in tool}
    if "parameters" not in function and schema is not None:
        function["parameters"] = schema
    return {"type": "function", "function": function}


def _written(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
