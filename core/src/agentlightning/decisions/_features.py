"""Features of a decision: what context and option say, crossed and hashed into a vector of fixed length."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias

import msgspec

from agentlightning.types import Json

Vector: TypeAlias = list[tuple[int, float]]
"""Index and value of what is not 0; an index may be there several times, and its values add up."""

_Named: TypeAlias = list[tuple[int, float]]
"""Hash of a feature's name, and the feature's value."""

_MOST_OF_CONTEXT: Final = 64
_MOST_OF_OPTION: Final = 16
_LONG: Final = 40
"""Texts up to this length are taken as one value; longer ones, and those of several words, by their words."""
_WORD: Final = re.compile(r"\w+")
_MASK: Final = (1 << 64) - 1


def vectors(name: str, options: Sequence[Json], *, context: Json, bits: int) -> list[Vector]:
    """One vector for each option: every feature of the option crossed with every feature of the context.

    Signs are hashed too (Weinberger et al. 2009, "Feature Hashing"), so that collisions cancel on average. The same
    everywhere: nothing depends on process, platform or order of keys.

    Args:
        name: What is decided; two decisions share no feature.
        options: As plain data.
        context: As plain data.
        bits: Vectors have `2**bits` places.
    """
    there = _context(name, context)
    return [_crossed(_option(option), there, shift=64 - bits) for option in options]


def _crossed(own: _Named, there: _Named, *, shift: int) -> Vector:
    found: Vector = []
    for first, share in own:
        spread = first * 0x9E3779B97F4A7C15
        for second, value in there:
            mixed = (spread + second) & _MASK
            mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _MASK
            mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _MASK
            found.append((mixed >> shift, share * value if mixed & 1 else -share * value))
    return found


def _context(name: str, context: Json) -> _Named:
    """The decision itself with value 1, and what its context says, of norm 1."""
    named = list(islice(_fields(context, ""), _MOST_OF_CONTEXT))
    norm = math.sqrt(sum(value * value for _, value in named)) or 1.0
    return [(_hash(f"{name}\n"), 1.0), *((_hash(f"{name}\n{text}"), value / norm) for text, value in named)]


def _option(option: Json) -> _Named:
    """The option as a whole and its parts, of norm 1."""
    whole = "option " + msgspec.json.encode(option, order="deterministic").decode()
    parts: list[tuple[str, float]] = [(whole, 1.0)]
    if isinstance(option, Mapping | list) or (isinstance(option, str) and not _short(option)):
        parts.extend(islice(_fields(option, "option"), _MOST_OF_OPTION))
    norm = math.sqrt(sum(value * value for _, value in parts))
    return [(_hash(text), value / norm) for text, value in parts]


def _fields(value: Json, path: str) -> Iterator[tuple[str, float]]:
    """Names of features with their values, by path."""
    match value:
        case None:
            return
        case Mapping():
            for key in sorted(value):
                yield from _fields(value[key], f"{path}.{key}")
        case str():
            if _short(value):
                yield f"{path}={value}", 1.0
            else:
                yield from ((f"{path} {word}", 1.0) for word in _words(value))
        case bool():
            yield f"{path}={value}", 1.0
        case int() | float():
            yield f"{path}={value:.2g}", 1.0
            yield f"{path}#", value / (1.0 + abs(value))
        case Sequence():
            for index, item in enumerate(value):
                yield from _fields(item, f"{path}.{index}")


def _short(text: str) -> bool:
    return len(text) <= _LONG and not any(map(str.isspace, text))


def _words(text: str) -> list[str]:
    """Each word of a text once, in order."""
    return list(dict.fromkeys(_WORD.findall(text.lower())))


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
