"""How values become bytes and come back: msgpack, with NaN and infinity refused on the way in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

Value = TypeVar("Value")

_ENCODER: Final = msgspec.msgpack.Encoder()
# the msgpack bytes of a float64 that is NaN or infinite begin with one of these
_SUSPECTS: Final = (b"\xcb\x7f", b"\xcb\xff")


def pack(value: object, *, what: str) -> bytes:
    """Encodes plain data.

    Args:
        value: JSON values, or structs of them.
        what: What it is, for messages: `task`, `output of attempt 'x'`.

    Raises:
        ValueError: A number is NaN, infinite or wider than 64 bits, text is not Unicode, or it is nested too deep.
        TypeError: Something is not JSON.
    """
    try:
        data = _ENCODER.encode(value)
    except TypeError as error:
        raise TypeError(f"{what} cannot be stored: {error}; keep to JSON values") from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise ValueError(f"{what} cannot be stored: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deep to be stored; flatten it") from error
    if any(suspect in data for suspect in _SUSPECTS):
        check_finite(value, what=what)
    return data


def check_finite(value: object, *, what: str) -> None:
    """Lets values without NaN and infinity pass.

    Raises:
        ValueError: There is one; the message has its path.
    """
    stack: list[tuple[str, object]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{what} has {item!r} at {path or 'its top'}; leave it out, or send a string")
        if isinstance(item, msgspec.Struct):
            item = msgspec.structs.asdict(item)
        if isinstance(item, Mapping):
            stack.extend((f"{path}.{key}", part) for key, part in item.items())
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend((f"{path}[{index}]", part) for index, part in enumerate(item))


def unpack(data: bytes, kind: type[Value]) -> Value:
    """Decodes what `pack` made of a `kind`."""
    return msgspec.msgpack.decode(data, type=kind)


def unpack_json(data: bytes) -> object:
    """Decodes what `pack` made of plain JSON."""
    return msgspec.msgpack.decode(data)


def digest(data: bytes) -> bytes:
    """A fingerprint that tells one payload from another."""
    return hashlib.blake2b(data, digest_size=16).digest()
