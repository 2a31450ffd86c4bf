"""Messages and tools of the OpenAI wire, checked and made hashable."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from agentlightning.errors import ConfigError
from agentlightning.types import Json

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""Roles of the wire, and what chat templates call them."""


class Call(msgspec.Struct, frozen=True):
    """A tool call; the arguments are the very string that stands on the wire."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message; `tool_call_id` is there in answers of tools."""

    role: str
    content: str = ""
    calls: tuple[Call, ...] = ()
    tool_call_id: str = ""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that may be called.

    Attributes:
        arguments: Names of its parameters.
        definition: The whole definition as JSON.
    """

    name: str
    arguments: tuple[str, ...]
    definition: str


def as_messages(value: Json) -> list[Message]:
    """Reads `messages`.

    Raises:
        ConfigError: They are not what the wire allows, or hold something other than text.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"messages must be a list of at least one message, found {value!r}")
    return [_message(index, item) for index, item in enumerate(value)]


def as_tools(value: Json) -> list[Tool]:
    """Reads `tools`; None is none.

    Raises:
        ConfigError: Something in it is not a function.
    """
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ConfigError(f"tools must be a list of functions, found {value!r}")
    return [_tool(index, item) for index, item in enumerate(value)]


def _message(index: int, value: Json) -> Message:
    if not isinstance(value, Mapping):
        raise ConfigError(f"messages[{index}] must be an object, found {value!r}")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ConfigError(f"messages[{index}].role is {role!r}; known are {', '.join(ROLES)}")
    calls = value.get("tool_calls") or []
    if not isinstance(calls, list | tuple):
        raise ConfigError(f"messages[{index}].tool_calls must be a list, found {calls!r}")
    return Message(
        role=ROLES[role],
        content=_text(index, value.get("content")),
        calls=tuple(_call(index, call) for call in calls),
        tool_call_id=str(value.get("tool_call_id") or ""),
    )


def _text(index: int, content: Json) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(
            f"messages[{index}].content holds something other than text: {content!r}; send text only"
        )
    return "".join(str(text) for text in texts)


def _call(index: int, value: Json) -> Call:
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping) or not isinstance(name, str):
        raise ConfigError(
            f"messages[{index}].tool_calls holds {value!r}; only function calls with a name are known"
        )
    arguments = function.get("arguments") or ""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return Call(str(value.get("id") or ""), name, text)


def _tool(index: int, value: Json) -> Tool:
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise ConfigError(f"tools[{index}] is {value!r}; only functions with a name are known")
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    arguments = tuple(properties) if isinstance(properties, Mapping) else ()
    return Tool(name=name, arguments=arguments, definition=json.dumps(value))
