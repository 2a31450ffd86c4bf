"""Features of a decision's state: words, fields and places, hashed into a vector of fixed length."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias

from agentlightning.types import Json, Transition

Features: TypeAlias = tuple[tuple[int, float], ...]
"""Index and value of everything that is not 0, by index."""

_MOST: Final = 512
"""Most features of one state that are looked at."""
_WORD: Final = re.compile(r"\w+")


class FeatureHasher:
    """Hashes names of features with signs (Weinberger et al. 2009, "Feature Hashing"); the same in every process.

    Args:
        size: Length of the vectors.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[str, tuple[int, float]] = {}

    def state(self, transition: Transition) -> Features:
        """The state of a decision: agent, location, emitted fields, options, words of the last message; of norm 1."""
        found: dict[int, float] = {}
        for name in islice(_names(transition), _MOST):
            index, sign = self._place(name)
            found[index] = found.get(index, 0.0) + sign
        norm = math.sqrt(sum(value * value for value in found.values())) or 1.0
        return tuple((index, value / norm) for index, value in sorted(found.items()) if value)

    def _place(self, name: str) -> tuple[int, float]:
        place = self._known.get(name)
        if place is None:
            digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            number = int.from_bytes(digest, "little")
            place = self._known[name] = (number >> 1) % self._size, 1.0 if number & 1 else -1.0
        return place


def _names(transition: Transition) -> Iterator[str]:
    yield f"agent {transition.agent}"
    yield f"location {transition.location}"
    state = transition.state
    if not isinstance(state, Mapping):
        return
    yield from _fields(state.get("emitted"), "emitted")
    yield from _fields(state.get("options"), "options")
    messages = state.get("messages")
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        yield f"messages {len(messages)}"
        messages = messages[-1]
    yield from (f"word {word.lower()}" for text in _texts(messages) for word in _WORD.findall(text))


def _fields(value: Json, path: str) -> Iterator[str]:
    """Paths with their values."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _fields(inner, f"{path}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, inner in enumerate(value):
            yield from _fields(inner, f"{path}.{index}")
    elif value is not None:
        yield f"{path}={value}"


def _texts(value: Json) -> Iterator[str]:
    """All texts in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)
