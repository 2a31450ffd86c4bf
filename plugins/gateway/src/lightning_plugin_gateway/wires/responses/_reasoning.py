"""Reasoning: a field of chat messages, an item of its own in Responses."""

from __future__ import annotations

import base64
import binascii

from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._narrow import as_list, as_objects, as_text

_SEALED = "agl1."
ENCRYPTED = "reasoning.encrypted_content"
"""Value of `include` that asks for reasoning which the client can hand back without reading it."""
PARAGRAPH = "\n\n"
"""What stands between parts of reasoning where they become one text."""


def reasoning_of(message: Body) -> str:
    """Reasoning of a chat message or delta, under either of its names."""
    return as_text(message.get("reasoning_content")) or as_text(message.get("reasoning"))


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
        item["encrypted_content"] = _SEALED + base64.b64encode(text.encode()).decode()
    return item


def text_of_item(item: Body) -> str:
    """Text of a reasoning item; empty for one that only its maker can read."""
    parts = [
        as_text(part.get("text")) for name in ("summary", "content") for part in as_objects(item.get(name))
    ]
    said = PARAGRAPH.join(part for part in parts if part)
    return said or _unsealed(as_text(item.get("encrypted_content")))


def _unsealed(sealed: str) -> str:
    if not sealed.startswith(_SEALED):
        return ""
    try:
        return base64.b64decode(sealed.removeprefix(_SEALED), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
