"""Token records as attributes, and back."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar, cast

from agentlightning import semconv
from agentlightning.capture.otlp import names
from agentlightning.capture.otlp._found import Unreadable
from agentlightning.types import Json, TokenRecord, pack_floats, pack_ints, unpack_floats

NAMES: Final = (
    names.PROMPT_IDS,
    names.RESPONSE_IDS,
    names.LOGPROBS,
    names.VERSIONS,
    names.INCOMPLETE,
    names.FINISH_REASONS,
)
Value = TypeVar("Value")
_Pack = Callable[[list[int]], bytes] | Callable[[list[float]], bytes]


def tokens_of(own: Mapping[str, Json], attributes: Mapping[str, Json]) -> tuple[TokenRecord, ...]:
    """The token records that attributes express.

    Args:
        own: Attributes that stand for fields.
        attributes: The others, for version and reason of one's own.

    Raises:
        Unreadable: They are neither packed nor numbers, or a log-probability is not finite.
    """
    found = {name: own[name] for name in NAMES if name in own}
    if not found:
        return ()
    prompts = _packed(found, names.PROMPT_IDS, pack_ints)
    responses = _packed(found, names.RESPONSE_IDS, pack_ints)
    logprobs = _packed(found, names.LOGPROBS, pack_floats)
    for packed in logprobs:
        if not all(map(math.isfinite, unpack_floats(packed))):
            raise Unreadable(f"{names.LOGPROBS} has a number that is not finite; mark the call as incomplete")
    incomplete = _listed(found.get(names.INCOMPLETE))
    choices = max(len(prompts), len(responses), len(logprobs), len(incomplete))
    if len(prompts) == 1:
        prompts *= choices
    versions = _listed(found.get(names.VERSIONS, attributes.get(semconv.POLICY_VERSION)))
    if len(versions) == 1:
        versions *= choices
    reasons = _listed(found.get(names.FINISH_REASONS, attributes.get(semconv.FINISH_REASONS)))
    return tuple(
        TokenRecord(
            prompt=_at(prompts, index, b""),
            response=_at(responses, index, b""),
            logprobs=_at(logprobs, index, b""),
            version=_version(_at(versions, index, -1)),
            incomplete=str(_at(incomplete, index, "")),
            finish_reason=str(_at(reasons, index, "")),
        )
        for index in range(choices)
    )


def _packed(found: Mapping[str, Json], name: str, pack: _Pack) -> list[bytes]:
    """One column, packed, choice by choice."""
    column = found.get(name)
    if column is None or column == []:
        return []
    choices = column if isinstance(column, list) and isinstance(column[0], str | list) else [column]
    try:
        return [_unpacked(choice) if isinstance(choice, str) else _pack(choice, pack) for choice in choices]
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable(f"{name}: {error}; send numbers, or their 4 bytes each") from error


def _unpacked(text: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it is text") from error
    if len(data) % 4:
        raise ValueError(f"it has {len(data)} bytes")
    return data


def _pack(numbers: Json, pack: _Pack) -> bytes:
    if not isinstance(numbers, list):
        raise TypeError(f"it is {numbers!r:.100}")
    return cast("Callable[[list[object]], bytes]", pack)(numbers)


def _listed(value: Json) -> list[Json]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _at(column: Sequence[Value], index: int, default: Value) -> Value:
    return column[index] if index < len(column) else default


def _version(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable(f"the policy version of a call is an integer, found {value!r:.100}")
    return value
