"""Values: the limits that both encodings share, and JSON that travels as text."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from agentlightning.capture.otlp._found import Reading, Unreadable
from agentlightning.types import Json

_INT64: Final = range(-(2**63), 2**63)
_PACKER: Final = msgspec.msgpack.Encoder()
_MOST_BRACKETS: Final = 500_000
"""JSON text with more lists and maps stays text: as objects it would need many times its memory."""


def cut(text: str, limit: int) -> str:
    """The text, or as much of it as the limit allows, with a mark."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit} of {len(text)} characters cut]"


def finite(number: float) -> float:
    """A number that JSON can express.

    Raises:
        Unreadable: It is NaN or infinite.
    """
    if not math.isfinite(number):
        raise Unreadable(f"an attribute is {number!r}, which JSON cannot express; leave it out or send text")
    return number


def integer(number: int) -> int:
    """An integer of 64 bits. Raises `Unreadable`."""
    if number not in _INT64:
        raise Unreadable(f"the integer {number} is wider than 64 bits; send text")
    return number


def time_ns(number: int, what: str) -> int:
    """A time that a store can keep. Raises `Unreadable`."""
    if number not in _INT64:
        raise Unreadable(f"{what} is {number}, which is no time in nanoseconds since the epoch")
    return number


def too_deep(reading: Reading) -> Unreadable:
    """The error for a value that is nested too deep."""
    return Unreadable(f"an attribute is nested more than {reading.depth} levels deep; flatten it")


def from_text(text: str, *, depth: int) -> Json:
    """The value that JSON text stands for; the text itself where it is no JSON that a store takes."""
    brackets = text.count("[") + text.count("{")
    if brackets > _MOST_BRACKETS:
        return text
    try:
        value: Json = msgspec.json.decode(text)
        _PACKER.encode(value)  # as the store will; cheaper than a look at each number
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError):
        return text  # written by somebody else, or cut by a limit
    return text if brackets > depth and _depth(value) > depth else value


def to_text(value: Json) -> str:
    """A value as JSON text."""
    return msgspec.json.encode(value).decode()


def _depth(value: Json) -> int:
    """Levels of lists and maps."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, dict | list) and item]:
        depth += 1
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return depth
