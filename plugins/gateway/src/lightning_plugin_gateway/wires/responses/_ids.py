"""Ids of answers and of what is in them."""

from __future__ import annotations

from typing import Final

from lightning_plugin_gateway.wires._ids import AnswerIds

IDS: Final = AnswerIds("resp_")


def item_id(kind: str, base: str, *, place: int) -> str:
    """Id of the item at that place among those of its kind, `rs`, `msg` or `fc`."""
    return f"{kind}_{base}_{place}" if place else f"{kind}_{base}"


def call_id(base: str, *, place: int) -> str:
    """Id of a tool call that the model's server gave none."""
    return item_id("call", base, place=place)
