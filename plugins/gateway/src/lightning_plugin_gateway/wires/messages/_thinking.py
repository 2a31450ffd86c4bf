"""Reasoning: a text of chat messages, blocks with a signature in Messages.

Signatures are for those who made them. A block of another server is kept whole in `thinking_blocks` of a chat message,
a name that clients of chat completions know it by, and handed back from there. Signatures made here tell so.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text
from lightning_plugin_gateway.wires._reasoning import PARAGRAPH, SEAL, reasoning_of, sealed, unsealed
from lightning_plugin_gateway.wires._wire import Body

_KINDS = ("thinking", "redacted_thinking")
BLOCKS = "thinking_blocks"
"""Field of a chat message with the blocks that another server has signed."""


def is_omitted(request: Body) -> bool:
    """Whether a native request asks for reasoning without its text."""
    return as_object(request.get("thinking")).get("display") == "omitted"


def signature(text: str, *, omitted: bool) -> str:
    """Signature of a block that is made here: it tells so and, if the text is omitted, holds it, encoded."""
    return sealed(text) if omitted else SEAL


def thinking_blocks(message: Body, *, omitted: bool) -> list[Body]:
    """Blocks of a chat message's reasoning.

    Args:
        message: Of an answer.
        omitted: Whether the text is left out of what is shown.
    """
    if kept := kept_blocks(message):
        return [{**block, "thinking": ""} if omitted and "thinking" in block else block for block in kept]
    text = reasoning_of(message)
    shown = "" if omitted else text
    return (
        [{"type": "thinking", "thinking": shown, "signature": signature(text, omitted=omitted)}]
        if text
        else []
    )


def kept_blocks(message: Body) -> list[Body]:
    """Blocks that a chat message keeps, if another server has signed one."""
    blocks = [block for block in map(_clean, as_objects(message.get(BLOCKS))) if block]
    return blocks if any(map(is_foreign, blocks)) else []


def text_of(block: Body) -> str:
    """Text of a block; empty for one that only its maker can read."""
    if block.get("type") != "thinking":
        return ""
    return as_text(block.get("thinking")) or unsealed(as_text(block.get("signature")))


def chat_reasoning(blocks: Sequence[Body]) -> Body:
    """Fields of a chat message for blocks of an answer."""
    texts = [text for text in map(text_of, blocks) if text]
    fields: Body = {"reasoning_content": PARAGRAPH.join(texts)} if texts else {}
    if any(map(is_foreign, blocks)):
        fields[BLOCKS] = [block for block in map(_clean, blocks) if block]
    return fields


def is_foreign(block: Body) -> bool:
    """Whether another server has signed a block."""
    if block.get("type") == "redacted_thinking":
        return True
    signed = as_text(block.get("signature"))
    return bool(signed) and not signed.startswith(SEAL)


def is_thinking(block: Body) -> bool:
    """Whether a block is reasoning, readable or not."""
    return block.get("type") in _KINDS


def _clean(block: Body) -> Body:
    if block.get("type") == "redacted_thinking":
        return {"type": "redacted_thinking", "data": as_text(block.get("data"))}
    if block.get("type") != "thinking":
        return {}
    said: dict[str, Json] = {name: as_text(block.get(name)) for name in ("thinking", "signature")}
    return {"type": "thinking", **said}
