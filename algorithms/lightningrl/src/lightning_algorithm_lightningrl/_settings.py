"""Settings from plain parameters: what is misspelt inside a table or a choice is told with the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

import msgspec
from msgspec import inspect

from agentlightning.config import decode_params
from agentlightning.errors import ConfigError
from agentlightning.types import Json

Settings = TypeVar("Settings", bound=msgspec.Struct)


def decode_settings(params: Mapping[str, Json], section: type[Settings], *, where: str) -> Settings:
    """As `agentlightning.config.decode_params`, with a hint where a value inside of a setting is the mistake.

    Raises:
        ConfigError: A key is unknown, or a value cannot be used.
    """
    try:
        return decode_params(params, section, where=where)
    except ConfigError as error:
        kind = inspect.type_info(section)
        hint = next(chain(_hints(params, kind, ""), _misplaced(params, kind)), "")
        if not hint:
            raise
        raise ConfigError(f"{error}; {hint}") from error


def _hints(value: Json, kind: inspect.Type, path: str) -> Iterator[str]:
    """What is wrong with names in a value, with the nearest ones that are right."""
    kinds = list(_alternatives(kind))
    structs = [one for one in kinds if isinstance(one, inspect.StructType)]
    names = [name for one in kinds for name in _names(one)]
    if isinstance(value, str):
        tags = {str(one.tag): one.tag_field for one in structs if one.tag_field}
        if names and value not in names:
            yield f"{path} is one of {_nearest(value, names)}"
        elif not names and value in tags:
            yield f"{path} is a table, such as {{{tags[value]} = {value!r}}}"
        elif any(isinstance(one, inspect.VarTupleType | inspect.ListType) for one in kinds):
            yield f"{path} is a list"
    elif isinstance(value, Mapping):
        if structs:
            yield from _in_table(value, structs, path, names=names)
    elif isinstance(value, Sequence):
        for one in kinds:
            if isinstance(one, inspect.VarTupleType | inspect.ListType):
                for place, item in enumerate(value):
                    yield from _hints(item, one.item_type, f"{path}[{place}]")
    elif value is not None and len(structs) == 1 and len(kinds) <= 2:
        yield f"{path} is a table of {', '.join(field.name for field in structs[0].fields)}"


def _in_table(
    value: Mapping[str, Json], structs: Sequence[inspect.StructType], path: str, *, names: Sequence[str]
) -> Iterator[str]:
    tag_field = structs[0].tag_field
    if tag_field is not None:
        tags = {str(one.tag): one for one in structs}
        tag = value.get(tag_field)
        if tag not in tags:
            asked = "" if tag is None else str(tag)
            if asked in names:
                yield f"{asked!r} has no options, so give its name alone: {path} = {asked!r}"
                return
            yield f"{_under(path, tag_field)} is one of {_nearest(asked, tags)}"
            return
        structs = [tags[str(tag)]]
    fields = {field.encode_name: field for one in structs for field in one.fields}
    for key, inner in value.items():
        if key in fields:
            yield from _hints(inner, fields[key].type, _under(path, key))
        elif key != tag_field and path:
            yield f"it has {_nearest(key, fields)}" if fields else "it has no options"


def _misplaced(params: Mapping[str, Json], kind: inspect.Type) -> Iterator[str]:
    """Where a name that is no setting belongs, if it is one inside of a setting."""
    if not isinstance(kind, inspect.StructType):
        return
    known = {field.encode_name for field in kind.fields}
    for key in params.keys() - known:
        for field in kind.fields:
            for one in _alternatives(field.type):
                if isinstance(one, inspect.StructType) and key in {each.encode_name for each in one.fields}:
                    name = f"name = {str(one.tag)!r}, " if one.tag is not None else ""
                    yield f"it belongs into {field.encode_name} = {{{name}{key} = …}}"


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    """The types that a value may have, without their bounds and without None."""
    if isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _alternatives(one)
    elif not isinstance(kind, inspect.NoneType):
        yield kind


def _names(kind: inspect.Type) -> Iterator[str]:
    if isinstance(kind, inspect.EnumType):
        yield from (str(member.value) for member in kind.cls)
    elif isinstance(kind, inspect.LiteralType):
        yield from map(str, kind.values)


def _nearest(asked: str, names: Iterable[str]) -> str:
    """The names, the one that was probably meant first."""
    listed = sorted(names)
    near = difflib.get_close_matches(asked, listed, n=1, cutoff=0.5)
    return f"{', '.join(listed)}; did you mean {near[0]!r}?" if near else ", ".join(listed)


def _under(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
