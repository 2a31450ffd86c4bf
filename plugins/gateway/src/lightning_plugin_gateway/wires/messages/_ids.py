"""Ids of answers and of what is in them."""

from __future__ import annotations

from typing import Final

from agentlightning.types import Json
from lightning_plugin_gateway.wires._ids import AnswerIds

IDS: Final = AnswerIds("msg_")


def call_id(given: Json, *, base: str, place: int) -> str:
    """Id of a tool call: the one that the model's server gave, if it did."""
    return given if isinstance(given, str) and given else f"toolu_{base}_{place}"
