"""Annotations of an answer's text: flat in Responses, nested in chat completions, which know only links."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects
from lightning_plugin_gateway.wires._wire import Body

_LINK = "url_citation"


def native_annotations(annotations: Json) -> list[Body]:
    """Annotations of a native text for those of a chat message."""
    return [{"type": _LINK, **as_object(one.get(_LINK))} for one in _links(annotations)]


def chat_annotations(annotations: Json) -> list[Body]:
    """Annotations of a chat message for those of a native text."""
    return [
        {"type": _LINK, _LINK: {name: value for name, value in one.items() if name != "type"}}
        for one in _links(annotations)
    ]


def _links(annotations: Json) -> list[Body]:
    return [one for one in as_objects(annotations) if one.get("type") == _LINK]
