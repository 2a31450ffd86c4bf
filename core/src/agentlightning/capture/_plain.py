"""Any value as plain JSON data, or an error that names the part that cannot be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum

import msgspec

from agentlightning.types import Json

_INT64 = range(-(2**63), 2**63)


def to_json(value: object, *, path: str) -> str:
    """The value as JSON text.

    Args:
        value: Plain data, dataclasses, structs, pydantic models, enums, dates and the like, nested as you like.
        path: What the value is called in messages.

    Raises:
        TypeError: A part cannot be expressed as JSON; the message has its path, such as `state.foo[3]`.
    """
    try:
        return msgspec.json.encode(to_plain(value, path=path)).decode()
    except RecursionError as error:
        raise TypeError(f"{path} refers to itself or is nested too deeply; emit a part of it") from error


def to_plain(value: object, *, path: str) -> Json:
    """The value as dicts with string keys, lists, strings, numbers, booleans and None. Raises as `to_json`."""
    match value:
        case None | bool():
            return value
        case Enum():
            return to_plain(value.value, path=path)
        case str():
            return _text(value, path)
        case int():
            return _integer(value, path)
        case float():
            return _finite(value, path)
        case Mapping():
            return {_key(key, path): to_plain(inner, path=f"{path}.{key}") for key, inner in value.items()}
        case list() | tuple() | AbstractSet():
            return [to_plain(inner, path=f"{path}[{index}]") for index, inner in enumerate(_ordered(value))]
        case _:
            return _object(value, path)


def _object(value: object, path: str) -> Json:
    if isinstance(value, msgspec.Struct):
        return to_plain({name: getattr(value, name) for name in value.__struct_fields__}, path=path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value)]
        return to_plain({name: getattr(value, name) for name in names}, path=path)
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return to_plain(dump(), path=path)
    try:
        plain: Json = msgspec.to_builtins(value)
    except TypeError as error:
        raise TypeError(
            f"{path} is a {type(value).__name__}, which cannot be expressed as JSON; emit plain data instead"
        ) from error
    return plain


def _ordered(value: Iterable[object]) -> Iterable[object]:
    """Sets have no order of their own; sorted by text they are the same each time."""
    return sorted(value, key=repr) if isinstance(value, AbstractSet) else value


def _key(key: object, path: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise TypeError(f"{path} has the key {key!r}; JSON keys are strings, use {str(key)!r}")
    return _text(key, f"a key of {path}")


def _text(value: str, path: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise TypeError(
                f"{path} is no valid text ({error.reason}); decode it with errors='replace'"
            ) from error
    return str(value)


def _integer(value: int, path: str) -> int:
    if value not in _INT64:
        raise TypeError(f"{path} is {value}, beyond 64 bits; emit it as a string")
    return int(value)


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise TypeError(f"{path} is {value}, which JSON cannot express; emit None or a string instead")
    return float(value)
