"""How values become bytes and come back: msgpack, with what could not be read again refused on the way in."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import msgspec

from agentlightning.errors import StoreUnavailable

P = ParamSpec("P")
Value = TypeVar("Value")

_ENCODER: Final = msgspec.msgpack.Encoder()
# how the msgpack bytes of a float64 begin that is NaN or infinite: what has no such bytes needs no closer look
_SUSPECT: Final = re.compile(b"\xcb[\x7f\xff]")
# how maps and arrays begin that are not empty: what has few such bytes cannot be deep
_OPENERS: Final = bytes([*range(0x81, 0x90), *range(0x91, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])

_NESTED: Final = (dict, list, tuple, set, frozenset, msgspec.Struct)

MAX_DEPTH: Final = 200
"""Most levels of lists and objects within each other; more could be written, but not read from a deep stack."""


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
    if _SUSPECT.search(data) is not None:
        check_finite(value, what=what)
    if len(data) - len(data.translate(None, _OPENERS)) > MAX_DEPTH:
        check_depth(value, what=what)
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


def check_depth(value: object, *, what: str) -> None:
    """Lets values pass that are not nested too deep.

    Raises:
        ValueError: They have more than `MAX_DEPTH` levels.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for item in level for part in _parts(item) if isinstance(part, _NESTED)]
        if not level:
            return
    raise ValueError(f"{what} is nested more than {MAX_DEPTH} levels deep, too deep to be stored; flatten it")


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.astuple(value)
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def unpack(data: bytes, kind: type[Value]) -> Value:
    """Decodes what `pack` made of a `kind`. Raises `StoreUnavailable` if it is that no more."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(error) from error


def unpack_json(data: bytes) -> object:
    """Decodes what `pack` made of plain JSON. Raises `StoreUnavailable` if it is that no more."""
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(error) from error


def from_row(convert: Callable[P, Value]) -> Callable[P, Value]:
    """Marks what makes a noun of a row: if it cannot, the row was altered, and `StoreUnavailable` says so."""

    @wraps(convert)
    def converted(*args: P.args, **kwargs: P.kwargs) -> Value:
        try:
            return convert(*args, **kwargs)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise damaged(error) from error

    return converted


def damaged(error: Exception) -> StoreUnavailable:
    """What is raised when bytes come back that cannot have been stored."""
    return StoreUnavailable(
        f"the store is damaged: it has a value that cannot be read ({error}); restore a copy of it"
    )


def digest(data: bytes) -> bytes:
    """A fingerprint that tells one payload from another."""
    return hashlib.blake2b(data, digest_size=16).digest()
