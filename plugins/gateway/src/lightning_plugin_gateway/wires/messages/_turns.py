"""Native messages as chat messages."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway.wires._reasoning import PARAGRAPH
from lightning_plugin_gateway.wires._refusals import (
    malformed,
    not_in_chat,
    required_objects,
    required_text,
)
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._arguments import arguments_of
from lightning_plugin_gateway.wires.messages._parts import blocks, chat_content, chat_part
from lightning_plugin_gateway.wires.messages._results import chat_result
from lightning_plugin_gateway.wires.messages._thinking import is_thinking, text_of

_ROLES = ("user", "assistant", "system")


def chat_system(system: Json) -> list[Body]:
    """The chat message of a `system`, if there is one; several blocks stay several. Raises `ApiError` 400."""
    if system is None or system in ("", []):
        return []
    return [_system(system, where="`system`")]


def chat_messages(messages: Json) -> list[Body]:
    """The chat messages that say what native ones say. Raises `ApiError` 400."""
    said: list[Body] = []
    for place, message in enumerate(required_objects(messages, "`messages`")):
        said += _chat_messages(message, where=f"`messages[{place}]`")
    if not said:
        raise bad_request("`messages` has nothing to answer; send at least one message")
    return said


def _chat_messages(message: Body, *, where: str) -> list[Body]:
    role, content = message.get("role"), message.get("content")
    if role == "assistant":
        return [_spoken(content, where=where)]
    if role == "user":
        return _heard(content, where=where)
    if role == "system":
        return [_system(content, where=where)]
    raise malformed(f"the role of {where} must be one of {', '.join(_ROLES)}", role)


def _system(content: Json, *, where: str) -> Body:
    said = chat_content(content, where=where)
    if isinstance(said, list) and any(part["type"] != "text" for part in said if isinstance(part, dict)):
        raise not_in_chat(f"an image in {where}")
    return {"role": "system", "content": said}


def _heard(content: Json, *, where: str) -> list[Body]:
    """Results of tools come first: chat completions want them right after the calls, as Messages do."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    found = blocks(content, where=where)
    results = [chat_result(block, where=where) for block in found if block.get("type") == "tool_result"]
    parts = [chat_part(block, where=where) for block in found if block.get("type") != "tool_result"]
    if parts or not results:
        return [*results, {"role": "user", "content": parts}]
    return results


def _spoken(content: Json, *, where: str) -> Body:
    """One text is a text, as chat completions are answered; several stay parts."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    parts: list[Body] = []
    thoughts: list[str] = []
    calls: list[Body] = []
    for block in blocks(content, where=where):
        if block.get("type") == "tool_use":
            calls.append(_call(block, where=where))
        elif is_thinking(block):
            thoughts.append(text_of(block))
        elif block.get("type") == "text":
            parts.append(chat_part(block, where=where))
        else:
            raise not_in_chat(
                f"a block of type {block.get('type')!r:.60} in what the assistant said ({where})"
            )
    said: Json = parts[0]["text"] if len(parts) == 1 else [*parts] or (None if calls else "")
    message: Body = {"role": "assistant", "content": said}
    if any(thoughts):
        message["reasoning_content"] = PARAGRAPH.join(thought for thought in thoughts if thought)
    if calls:
        message["tool_calls"] = [*calls]
    return message


def _call(block: Body, *, where: str) -> Body:
    place = f"a tool call in {where}"
    if block.get("toolset_name") is not None:
        raise not_in_chat(f"`toolset_name` of {place}")
    given = block.get("input")
    if not isinstance(given, dict):
        raise malformed(f"`input` of {place} must be an object", given)
    name = required_text(block, "name", where=place)
    function: Body = {"name": name, "arguments": arguments_of(given)}
    return {"id": required_text(block, "id", where=place), "type": "function", "function": function}
