"""JSON of unknown shape, read as the shape that it should have: what is not of that shape is not there."""

from __future__ import annotations

import math

from agentlightning.types import Json
from lightning_plugin_gateway.wires._wire import Body


def as_object(value: Json) -> Body:
    """An object; an empty one if it is none."""
    return value if isinstance(value, dict) else {}


def as_objects(value: Json) -> list[Body]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_list(value: Json) -> list[Json]:
    """A list; an empty one if it is none."""
    return value if isinstance(value, list) else []


def as_text(value: Json) -> str:
    """A text; an empty one if it is none."""
    return value if isinstance(value, str) else ""


def as_whole(value: Json) -> int:
    """A number without its fraction; zero if it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return 0
    return int(value)


def as_count(value: Json) -> int:
    """A number that is not negative, without its fraction; zero if it is none."""
    return max(0, as_whole(value))


def given(body: Body, *names: str) -> Body:
    """The fields of these names that are there and not null."""
    return {name: body[name] for name in names if body.get(name) is not None}
