"""Tools, and which of them may be called: flat in Responses, nested in chat completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, given
from lightning_plugin_gateway.wires._refusals import malformed, not_in_chat, not_in_responses
from lightning_plugin_gateway.wires._wire import Body

_Refusal: TypeAlias = Callable[[str], ApiError]
_FUNCTION = ("name", "description", "parameters", "strict")
_CHOICES = ("none", "auto", "required")


def chat_tools(tools: Json) -> list[Body]:
    """Tools of a chat request. Raises `ApiError` 400, which names a tool that is no function."""
    return [_chat_tool(tool) for tool in _checked(tools)]


def native_tools(tools: Json) -> list[Body]:
    """Tools of a native request. Raises `ApiError` 400."""
    return [_native_tool(tool) for tool in _checked(tools)]


def chat_choice(choice: Json) -> Json:
    """`tool_choice` of a chat request. Raises `ApiError` 400."""
    if isinstance(choice, str) and choice in _CHOICES:
        return choice
    asked = as_object(choice)
    if asked.get("type") == "function":
        return {"type": "function", "function": _named(asked)}
    if asked.get("type") == "allowed_tools":
        allowed = [{"type": "function", "function": _named(one)} for one in _functions(asked, not_in_chat)]
        return {"type": "allowed_tools", "allowed_tools": {**given(asked, "mode"), "tools": allowed}}
    raise _bad_choice(choice, not_in_chat)


def native_choice(choice: Json) -> Json:
    """`tool_choice` of a native request. Raises `ApiError` 400."""
    if isinstance(choice, str) and choice in _CHOICES:
        return choice
    asked = as_object(choice)
    if asked.get("type") == "function":
        return {"type": "function", **_named(as_object(asked.get("function")))}
    if asked.get("type") == "allowed_tools":
        inner = as_object(asked.get("allowed_tools"))
        allowed = [
            {"type": "function", **_named(as_object(one.get("function")))}
            for one in _functions(inner, not_in_responses)
        ]
        return {"type": "allowed_tools", **given(inner, "mode"), "tools": allowed}
    raise _bad_choice(choice, not_in_responses)


def _checked(tools: Json) -> list[Body]:
    found = as_objects(tools)
    if not isinstance(tools, list) or len(found) != len(tools):
        raise malformed("`tools` must be a list of objects", tools)
    return found


def _chat_tool(tool: Body) -> Body:
    if tool.get("type") != "function":
        raise not_in_chat(f"the tool {tool.get('type')!r:.40}")
    _named(tool)
    for name, value in tool.items():
        if name not in ("type", *_FUNCTION) and value not in (None, False):
            raise not_in_chat(f"`{name:.40}` of the tool {tool['name']!r:.80}")
    function = given(tool, *_FUNCTION)
    if not function.get("strict"):
        function.pop("strict", None)
    return {"type": "function", "function": function}


def _native_tool(tool: Body) -> Body:
    if tool.get("type") != "function":
        raise not_in_responses(f"a tool of type {tool.get('type')!r:.40}")
    function = as_object(tool.get("function"))
    _named(function)
    strict = bool(
        function.get("strict")
    )  # what is not said means strict in Responses, and the opposite in chat
    return {"type": "function", "parameters": None, **given(function, *_FUNCTION), "strict": strict}


def _named(function: Body) -> Body:
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise malformed("a function's `name` must be a text of at least one character", name)
    return {"name": name}


def _functions(asked: Body, refusal: _Refusal) -> list[Body]:
    tools = _checked(asked.get("tools"))
    for tool in tools:
        if tool.get("type") != "function":
            raise refusal(f"the tool {tool.get('type')!r:.40} in `tool_choice`")
    return tools


def _bad_choice(choice: Json, refusal: _Refusal) -> ApiError:
    kind = as_object(choice).get("type")
    if isinstance(kind, str):
        return refusal(f"the tool {kind!r:.40} in `tool_choice`")
    return malformed(f"`tool_choice` must be one of {', '.join(_CHOICES)}, or name a function", choice)
