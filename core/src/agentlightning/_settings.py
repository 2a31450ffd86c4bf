"""Dotted settings of a struct: which there are, how their text is read, and which one a mistyped name meant."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import inspect

from agentlightning.errors import ConfigError
from agentlightning.types import Json

Path = tuple[str, ...]
"""A setting's place: `("gateway", "port")`."""


class UnknownSetting(ConfigError):
    """There is no such setting.

    Attributes:
        path: What was asked for.
    """

    def __init__(self, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.path = path


_OPEN: Final = inspect.AnyType | inspect.DictType


def kind_at(schema: inspect.Type, path: Path) -> inspect.Type:
    """The type of the setting at `path`.

    Raises:
        UnknownSetting: There is none; the message names the nearest one.
    """
    kind = schema
    for depth, key in enumerate(path):
        kind = _plain(kind)
        if isinstance(kind, inspect.StructType):
            fields = {field.name: field.type for field in kind.fields}
            if key not in fields:
                hint = _suggest(path[:depth], key, list(fields))
                raise UnknownSetting(f"there is no setting {dotted(path)!r}; {hint}", path)
            kind = fields[key]
        elif isinstance(kind, inspect.DictType):
            kind = kind.value_type
        elif not isinstance(kind, inspect.AnyType):
            held = dotted(path[:depth])
            raise UnknownSetting(f"there is no setting {dotted(path)!r}; {held!r} is a single value", path)
    return kind


def flatten(
    schema: inspect.Type, values: Mapping[str, Json], *, under: Path = ()
) -> Iterator[tuple[Path, Json]]:
    """Every setting that nested tables give, tables of free form taken apart too.

    Raises:
        UnknownSetting: A table holds something that is no setting.
    """
    for key, value in values.items():
        path = (*under, key)
        kind = _plain(kind_at(schema, path))
        if isinstance(value, Mapping) and value and isinstance(kind, inspect.StructType | _OPEN):
            yield from flatten(schema, value, under=path)
        else:
            yield path, _split(kind, value)


def parse(schema: inspect.Type, path: Path, text: str) -> Json:
    """Reads a value given as text: as it stands where text is wanted, else as TOML, else as text.

    Raises:
        UnknownSetting: There is no such setting.
    """
    kind = _plain(kind_at(schema, path))
    if isinstance(kind, inspect.StrType):
        return text
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return _split(kind, text)
    return _split(kind, table["value"]) if list(table) == ["value"] else text


def nested(settings: Mapping[Path, Json]) -> dict[str, Json]:
    """Settings as nested tables, later ones over earlier ones."""
    tables: dict[str, Json] = {}
    for path, value in settings.items():
        table = tables
        for key in path[:-1]:
            inner = table.get(key)
            if not isinstance(inner, dict):
                inner = table[key] = {}
            table = inner
        table[path[-1]] = value
    return tables


def dotted(path: Sequence[str]) -> str:
    """A path as people write it."""
    return ".".join(path)


def schema_of(struct: type[msgspec.Struct]) -> inspect.Type:
    """The schema of a struct."""
    return inspect.type_info(struct)


def _plain(kind: inspect.Type) -> inspect.Type:
    """A type without its bounds and its None."""
    while True:
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
        else:
            return kind


def _split(kind: inspect.Type, value: Json) -> Json:
    """A list of names may be written as one string with commas."""
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, str):
        return list[Json](split_names(value))
    return value


def split_names(text: str) -> list[str]:
    """The names in a list with commas; those within brackets and quotes separate nothing."""
    found, depth, quoted, escaped = [""], 0, False, False
    for letter in text:
        if letter == "," and not depth and not quoted:
            found.append("")
            continue
        found[-1] += letter
        if quoted:
            quoted = escaped or letter != '"'
            escaped = letter == "\\" and not escaped
        else:
            quoted = letter == '"'
            depth += (letter in "([") - (letter in ")]")
    return [one.strip() for one in found if one.strip()]


def _suggest(under: Path, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {dotted((*under, near[0]))!r}?"
    return f"valid {'in ' + repr(dotted(under)) if under else 'settings'} are {', '.join(sorted(known))}"
