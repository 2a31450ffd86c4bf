"""What a dialect makes of a span, and how numbered attributes and JSON text are read within bounds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from agentlightning.capture.otlp._values import from_text
from agentlightning.types import Json, Span

Attributes = Mapping[str, Json]

_DEEPEST: Final = 32
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """What a span says in a dialect.

    Attributes:
        operation: What it is; None if the dialect does not say.
        agent: Whose it is.
        error: What went wrong, where the status does not say it.
        attributes: In the names of `semconv`; what is None, empty text or an empty list is not said.
    """

    operation: str | None = None
    agent: str | None = None
    error: str | None = None
    attributes: dict[str, Json] = {}


class Dialect(Protocol):
    """Reads what a span says in one dialect, from names that are not ours: the same, however often it is asked."""

    def __call__(self, span: Span, children: Sequence[Span]) -> Meaning | None:
        """The meaning; None if the span does not speak the dialect. `children` are in order of their starts."""
        ...


def numbered(attributes: Attributes, prefix: str) -> list[dict[str, Json]]:
    """Attributes called `prefix.NUMBER.rest` as a list of `rest` to value, in order of the numbers.

    Numbers may have gaps, so the list is never longer than there are attributes.
    """
    found: dict[int, dict[str, Json]] = defaultdict(dict)
    start = f"{prefix}."
    for key, value in attributes.items():
        if key.startswith(start):
            number, _, rest = key[len(start) :].partition(".")
            if rest and _NUMBER.fullmatch(number):
                found[int(number)][rest] = value
    return [found[number] for number in sorted(found)]


def below(attributes: Attributes, prefix: str) -> dict[str, Json]:
    """Attributes called `prefix.rest` as `rest` to value."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in attributes.items() if key.startswith(start)}


def decoded(value: Json) -> Json:
    """What JSON text stands for; anything else, and text that is no JSON or nested too deep, as it is."""
    return from_text(value, depth=_DEEPEST) if isinstance(value, str) else value


def mapping(value: Json) -> dict[str, Json]:
    """A map, or the one that JSON text stands for; else empty."""
    found = decoded(value)
    return found if isinstance(found, dict) else {}


def sequence(value: Json) -> list[Json]:
    """A list, or the one that JSON text stands for; else empty."""
    found = decoded(value)
    return found if isinstance(found, list) else []


def mappings(value: Json) -> list[dict[str, Json]]:
    """The maps of a list."""
    return [item for item in sequence(value) if isinstance(item, dict)]


def text(value: Json) -> str | None:
    """Text that says something, else None."""
    return value if isinstance(value, str) and value else None


def first(attributes: Attributes, *names: str) -> Json:
    """The value of the first of some names that says anything."""
    return next((value for name in names if (value := attributes.get(name)) not in (None, "")), None)


def count(value: Json) -> int | None:
    """A number of tokens; some dialects send text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
