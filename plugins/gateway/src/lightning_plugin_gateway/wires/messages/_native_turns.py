"""Chat messages as native messages."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_text
from lightning_plugin_gateway.wires._refusals import (
    malformed,
    not_in_messages,
    required_objects,
    required_text,
)
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._arguments import input_of
from lightning_plugin_gateway.wires.messages._parts import native_content
from lightning_plugin_gateway.wires.messages._results import native_result
from lightning_plugin_gateway.wires.messages._thinking import is_foreign, kept_blocks

_SYSTEM = ("system", "developer")
_ROLES = (*_SYSTEM, "user", "assistant", "tool")


def native_turns(messages: Json) -> Body:
    """`system` and `messages` of a native request. Raises `ApiError` 400.

    System messages before all others are the system prompt; a later one stays where it is. Results of tools that
    follow each other are one turn of the user's. Reasoning that its maker has not signed is left out: the API refuses
    it.
    """
    found = required_objects(messages, "`messages`")
    first = next((place for place, one in enumerate(found) if one.get("role") not in _SYSTEM), len(found))
    request: Body = {}
    if first:
        request["system"] = _system([one.get("content") for one in found[:first]])
    turns: list[Body] = []
    results: list[Json] = []
    for place, message in enumerate(found[first:], start=first):
        where = f"`messages[{place}]`"
        if message.get("role") != "tool":
            results = []
            turns.append(_turn(message, where=where))
            continue
        if not results:
            turns.append({"role": "user", "content": results})
        results.append(native_result(message, where=where))
    return {**request, "messages": [*turns]}


def _system(contents: list[Json]) -> Json:
    where = "a system message"
    said = [native_content(content, where=where) for content in contents]
    if len(said) == 1:
        return said[0]
    blocks: list[Json] = []
    for content in said:
        blocks += content if isinstance(content, list) else [{"type": "text", "text": content}]
    return blocks


def _turn(message: Body, *, where: str) -> Body:
    role = message.get("role")
    if role == "assistant":
        return {"role": "assistant", "content": _spoken(message, where=where)}
    if role in _SYSTEM:
        return {"role": "system", "content": native_content(message.get("content"), where=where)}
    if role == "user":
        return {"role": "user", "content": native_content(message.get("content"), where=where)}
    raise malformed(f"the role of {where} must be one of {', '.join(_ROLES)}", role)


def _spoken(message: Body, *, where: str) -> Json:
    """A text alone stays a text; a refusal is what was said."""
    for name in ("audio", "function_call"):
        if message.get(name) is not None:
            raise not_in_messages(f"`{name}` of {where}")
    said, refusal = message.get("content"), as_text(message.get("refusal"))
    content: Json = "" if said is None else native_content(said, where=where)
    calls = message.get("tool_calls")
    blocks: list[Json] = [block for block in kept_blocks(message) if is_foreign(block)]
    if isinstance(content, str) and not blocks and not calls:
        return content + refusal
    spoken = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    blocks += [*spoken, {"type": "text", "text": refusal}] if refusal else spoken
    if calls is not None:
        blocks += [_call(call, where=where) for call in required_objects(calls, f"`tool_calls` of {where}")]
    return blocks


def _call(call: Body, *, where: str) -> Body:
    place = f"a tool call in {where}"
    if call.get("type", "function") != "function":
        raise not_in_messages(f"a call of type {call['type']!r:.60} in {where}")
    function = as_object(call.get("function"))
    name = required_text(function, "name", where=place)
    arguments = input_of(required_text(function, "arguments", where=place))
    return {
        "type": "tool_use",
        "id": required_text(call, "id", where=place),
        "name": name,
        "input": arguments,
    }
