"""Token ids and log-probabilities as columns of lists, made of the packed arrays without touching a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from agentlightning.archive._arrow import arrow_module
from agentlightning.types import TokenRecord

if TYPE_CHECKING:
    from typing import Any

    Array: TypeAlias = Any  # pyarrow has no types

ITEM_BYTES: Final = 4
FURTHER: Final = "further_choices"
RAW: Final = "raw_tokens"
_LISTS: Final = {"prompt_ids": "prompt", "response_ids": "response", "logprobs": "logprobs"}
_LABELS: Final = {
    "policy_version": "version",
    "incomplete": "incomplete",
    "finish_reason": "finish_reason",
}


def token_fields() -> list[tuple[str, Array]]:
    """The columns: those of the first choice flat, further choices as a list of the same, and a way out.

    `raw_tokens` has JSON of all choices of a span whose arrays are broken, and nothing otherwise.
    """
    arrow = arrow_module()
    choice = _choice_fields()
    return [*choice, (FURTHER, arrow.list_(arrow.struct(choice))), (RAW, arrow.string())]


def token_columns(spans: Sequence[tuple[TokenRecord, ...]]) -> dict[str, Array]:
    """The columns of the token records of some spans."""
    arrow = arrow_module()
    sound = [choices if all(map(_is_sound, choices)) else () for choices in spans]
    first = _choice_columns([choices[0] if choices else None for choices in sound])
    further = [record for choices in sound for record in choices[1:]]
    struct = arrow.StructArray.from_arrays(
        list(_choice_columns(further).values()), fields=[arrow.field(*one) for one in _choice_fields()]
    )
    lengths = [max(0, len(choices) - 1) for choices in sound]
    raw = [
        msgspec.json.encode(choices).decode() if choices and not kept else None
        for choices, kept in zip(spans, sound, strict=True)
    ]
    return {
        **first,
        FURTHER: arrow.ListArray.from_arrays(_offsets(lengths), struct),
        RAW: arrow.array(raw, arrow.string()),
    }


def token_records(columns: Mapping[str, Array]) -> list[tuple[TokenRecord, ...]]:
    """The inverse of `token_columns`."""
    further = columns[FURTHER]
    choices = _records(dict(zip(_names(), further.flatten().flatten(), strict=True)))
    found: list[tuple[TokenRecord, ...]] = []
    at = 0
    for first, count, raw in zip(
        _records(columns), further.value_lengths().to_pylist(), columns[RAW].to_pylist(), strict=True
    ):
        more = choices[at : at + (count or 0)]
        at += len(more)
        if raw is not None:
            found.append(msgspec.json.decode(raw, type=tuple[TokenRecord, ...]))
        else:
            found.append(() if first is None else (first, *(one for one in more if one is not None)))
    return found


def _is_sound(record: TokenRecord) -> bool:
    return not record.versions and all(
        len(getattr(record, name)) % ITEM_BYTES == 0 for name in _LISTS.values()
    )


def _names() -> tuple[str, ...]:
    return (*_LISTS, *_LABELS)


def _choice_fields() -> list[tuple[str, Array]]:
    arrow = arrow_module()
    ids = arrow.list_(arrow.int32())
    kinds = (ids, ids, arrow.list_(arrow.float32()), arrow.int64(), arrow.string(), arrow.string())
    return list(zip(_names(), kinds, strict=True))


def _choice_columns(records: Sequence[TokenRecord | None]) -> dict[str, Array]:
    arrow = arrow_module()
    missing = arrow.array([record is None for record in records], arrow.bool_())
    columns: dict[str, Array] = {}
    for name, kind in _choice_fields():
        if name in _LISTS:
            packed = [b"" if record is None else getattr(record, _LISTS[name]) for record in records]
            joined = b"".join(packed)
            values = arrow.Array.from_buffers(
                kind.value_type, len(joined) // ITEM_BYTES, [None, arrow.py_buffer(joined)]
            )
            offsets = _offsets([len(one) // ITEM_BYTES for one in packed])
            columns[name] = arrow.ListArray.from_arrays(offsets, values, mask=missing)
        else:
            labels = [None if record is None else getattr(record, _LABELS[name]) for record in records]
            columns[name] = arrow.array(labels, kind)
    return columns


def _records(columns: Mapping[str, Array]) -> list[TokenRecord | None]:
    packed = [_packed(columns[name]) for name in _LISTS]
    labels = [columns[name].to_pylist() for name in _LABELS]
    return [
        None
        if version is None
        else TokenRecord(
            prompt=prompt,
            response=response,
            logprobs=logprobs,
            version=version,
            incomplete=incomplete,
            finish_reason=finish_reason,
        )
        for prompt, response, logprobs, version, incomplete, finish_reason in zip(
            *packed, *labels, strict=True
        )
    ]


def _packed(lists: Array) -> list[bytes]:
    """The bytes of each list; none for one that is missing."""
    values = lists.values
    if values.null_count:
        raise ValueError("a list of tokens has a missing number")
    buffer = values.buffers()[1]
    data = memoryview(buffer) if buffer is not None else memoryview(b"")
    offsets = [(values.offset + one) * ITEM_BYTES for one in lists.offsets.to_pylist()]
    return [bytes(data[start:stop]) for start, stop in pairwise(offsets)]


def _offsets(lengths: Sequence[int]) -> Array:
    arrow = arrow_module()
    return arrow.array([0, *accumulate(lengths)], arrow.int32())
