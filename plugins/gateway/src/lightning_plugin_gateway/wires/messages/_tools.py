"""Tools, and which of them may be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, given
from lightning_plugin_gateway.wires._refusals import (
    is_neutral,
    malformed,
    not_in_chat,
    not_in_messages,
    required_objects,
)
from lightning_plugin_gateway.wires._wire import Body

_TOOL = ("type", "name", "description", "input_schema", "strict")
_UNTOLD = ("cache_control", "eager_input_streaming")
"""Fields of a tool that are about caching and how its calls are streamed."""
_NEUTRAL: Mapping[str, Sequence[Json]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "input_examples": ([],),
}
_FUNCTION = ("name", "description", "parameters", "strict")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_NATIVE_CHOICES = {chat: native for native, chat in _CHOICES.items()}


def chat_tools(tools: Json) -> list[Body]:
    """Tools of a chat request. Raises `ApiError` 400, which names a tool that its server runs."""
    return [_chat_tool(tool) for tool in required_objects(tools, "`tools`")]


def chat_choice(choice: Json) -> Body:
    """`tool_choice` and `parallel_tool_calls` of a chat request. Raises `ApiError` 400."""
    asked = as_object(choice)
    kind, single = asked.get("type"), asked.get("disable_parallel_tool_use")
    if not isinstance(single, bool | None):
        raise malformed("`tool_choice.disable_parallel_tool_use` must be true or false", single)
    if kind == "tool":
        chosen: Json = {"type": "function", "function": {"name": _name(asked, "`tool_choice`")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        chosen = _CHOICES[kind]
    else:
        raise malformed("the type of `tool_choice` must be one of auto, any, tool, none", choice)
    return {"tool_choice": chosen, **({"parallel_tool_calls": False} if single else {})}


def native_tools(tools: Json) -> list[Body]:
    """Tools of a native request. Raises `ApiError` 400."""
    return [_native_tool(tool) for tool in required_objects(tools, "`tools`")]


def native_choice(choice: Json, *, parallel: Json) -> Body | None:
    """`tool_choice` of a native request; None if nothing is asked.

    Args:
        choice: Of a chat request.
        parallel: Its `parallel_tool_calls`.

    Raises:
        ApiError: 400.
    """
    native = None if choice is None else _native_choice(choice)
    if parallel is not False:
        return native
    asked: Body = native or {"type": "auto"}
    return asked if asked["type"] == "none" else {**asked, "disable_parallel_tool_use": True}


def streamed_early(request: Body) -> frozenset[str]:
    """Names of the tools whose arguments a client wants as they are written, whether or not they become JSON."""
    tools = request.get("tools")
    listed = tools if isinstance(tools, list) else []
    return frozenset(
        tool["name"]
        for tool in listed
        if isinstance(tool, dict)
        and tool.get("eager_input_streaming") is True
        and isinstance(tool.get("name"), str)
    )


def _chat_tool(tool: Body) -> Body:
    if tool.get("type") not in (None, "custom"):
        raise not_in_chat(f"the tool {tool['type']!r:.60}, which is run where the model is,")
    name = _name(tool, "a tool")
    for field, value in tool.items():
        if field not in (*_TOOL, *_UNTOLD) and not is_neutral(field, value, _NEUTRAL):
            raise not_in_chat(f"`{field:.40}` of the tool {name!r:.80}")
    schema = tool.get("input_schema")
    if not isinstance(schema, dict):
        raise malformed(f"`input_schema` of the tool {name!r:.80} must be an object", schema)
    function: Body = {"name": name, **given(tool, "description"), "parameters": schema}
    return {"type": "function", "function": {**function, "strict": True} if tool.get("strict") else function}


def _native_tool(tool: Body) -> Body:
    if tool.get("type") != "function":
        raise not_in_messages(f"a tool of type {tool.get('type')!r:.60}")
    function = as_object(tool.get("function"))
    name = _name(function, "a function")
    for field, value in function.items():
        if field not in _FUNCTION and value is not None:
            raise not_in_messages(f"`{field:.40}` of the function {name!r:.80}")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    native: Body = {"name": name, **given(function, "description"), "input_schema": schema}
    return {**native, "strict": True} if function.get("strict") else native


def _native_choice(choice: Json) -> Body:
    if isinstance(choice, str) and choice in _NATIVE_CHOICES:
        return {"type": _NATIVE_CHOICES[choice]}
    asked = as_object(choice)
    if asked.get("type") == "function":
        return {"type": "tool", "name": _name(as_object(asked.get("function")), "`tool_choice`")}
    raise not_in_messages(f"`tool_choice` {choice!r:.80}")


def _name(tool: Body, what: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise malformed(f"the name of {what} must be a text of at least one character", name)
    return name
