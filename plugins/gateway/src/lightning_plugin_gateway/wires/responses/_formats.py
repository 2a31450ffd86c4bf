"""Formats of an answer's text: flat in Responses, nested in chat completions."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, given
from lightning_plugin_gateway.wires._refusals import not_in_chat, not_in_responses
from lightning_plugin_gateway.wires._wire import Body

_PLAIN = ("text", "json_object")
_SCHEMA = ("name", "description", "schema", "strict")


def chat_format(asked: Json) -> Body:
    """`response_format` of a chat request for the `text.format` of a native one. Raises `ApiError` 400."""
    kind = as_object(asked).get("type")
    if kind in _PLAIN:
        return {"type": kind}
    if kind == "json_schema":
        return {"type": kind, "json_schema": given(as_object(asked), *_SCHEMA)}
    raise not_in_chat(f"`text.format` {asked!r:.80}")


def native_format(asked: Json) -> Body:
    """`text.format` of a native request for the `response_format` of a chat one. Raises `ApiError` 400."""
    kind = as_object(asked).get("type")
    if kind in _PLAIN:
        return {"type": kind}
    if kind == "json_schema":
        return {"type": kind, **given(as_object(as_object(asked).get("json_schema")), *_SCHEMA)}
    raise not_in_responses(f"`response_format` {asked!r:.80}")
