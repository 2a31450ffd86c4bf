"""Reasoning in chat messages, and how a client is given some to hand back without reading it."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from lightning_plugin_gateway.wires._narrow import as_text
from lightning_plugin_gateway.wires._wire import Body

PARAGRAPH: Final = "\n\n"
"""What stands between pieces of reasoning where they become one text."""
SEAL: Final = "agl1."
"""What begins all that is sealed here; it is encoded, not secret."""


def reasoning_of(message: Body) -> str:
    """Reasoning of a chat message or delta, under either of its names."""
    return as_text(message.get("reasoning_content")) or as_text(message.get("reasoning"))


def sealed(text: str) -> str:
    """A text for `unsealed`."""
    return SEAL + base64.b64encode(text.encode()).decode()


def unsealed(text: str) -> str:
    """What was sealed; empty for what was not sealed here."""
    if not text.startswith(SEAL):
        return ""
    try:
        return base64.b64decode(text.removeprefix(SEAL), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
