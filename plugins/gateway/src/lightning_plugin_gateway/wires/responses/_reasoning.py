"""Reasoning: a field of chat messages, an item of its own in Responses."""

from __future__ import annotations

from lightning_plugin_gateway.wires._narrow import as_list, as_objects, as_text
from lightning_plugin_gateway.wires._reasoning import PARAGRAPH, sealed, unsealed
from lightning_plugin_gateway.wires._wire import Body

ENCRYPTED = "reasoning.encrypted_content"
"""Value of `include` that asks for reasoning which the client can hand back without reading it."""


def reasoning_item(text: str, *, ident: str, request: Body, status: str) -> Body:
    """The item of a reasoning text.

    Its text stands in it. A client that asked for `reasoning.encrypted_content` gets it there too, encoded but not
    secret, as some hand back nothing else.
    """
    item: Body = {
        "id": ident,
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
        "status": status,
    }
    if ENCRYPTED in as_list(request.get("include")):
        item["encrypted_content"] = sealed(text)
    return item


def text_of_item(item: Body) -> str:
    """Text of a reasoning item; empty for one that only its maker can read."""
    parts = [
        as_text(part.get("text")) for name in ("summary", "content") for part in as_objects(item.get(name))
    ]
    said = PARAGRAPH.join(part for part in parts if part)
    return said or unsealed(as_text(item.get("encrypted_content")))
