"""Takes a protobuf request apart, so that each span is parsed by itself.

One that cannot be parsed then costs that span and not the request, and a request of nothing but empty messages, of
which a parser makes a hundred times its size, is refused before it is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from agentlightning.errors import LimitExceeded

_VARINT: Final = 0
_LENGTH: Final = 2
_FIXED_SIZES: Final = {1: 8, 5: 4}
_LONGEST_VARINT: Final = 10


class BrokenMessage(ValueError):
    """Bytes that are no protobuf message."""


class Batch(NamedTuple):
    """What one scope of one resource has sent, still encoded."""

    resource: bytes
    scope: bytes
    items: Iterator[memoryview]


def batches(body: bytes, *, most: int) -> Iterator[Batch]:
    """The parts of an export request; those of traces and of logs have the same numbers.

    Args:
        body: The request.
        most: Most fields that are looked at until the items are reached, resources, scopes and items among them.

    Raises:
        BrokenMessage: The outer messages cannot be taken apart; also while items are read.
        LimitExceeded: There are more fields.
    """
    walk = _Walk(most)
    for per_resource in walk.messages(memoryview(body), 1):
        resource: bytes | None = None
        for per_scope in walk.messages(per_resource, 2):
            if resource is None:
                resource = b"".join(
                    walk.messages(per_resource, 1)
                )  # one that comes in parts is all of them in a row
            yield Batch(resource, b"".join(walk.messages(per_scope, 1)), walk.messages(per_scope, 2))


def has_more_fields(data: memoryview, most: int) -> bool:
    """Whether a message has more fields than that. Raises `BrokenMessage`."""
    return next(islice(_fields(data), most, None), None) is not None


class _Walk:
    """A walk over fields that ends after so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def messages(self, data: memoryview, wanted: int) -> Iterator[memoryview]:
        """The messages in the fields of one number. Raises as `batches`."""
        for number, kind, start, stop in _fields(data):
            self._left -= 1
            if self._left < 0:
                raise LimitExceeded(
                    f"a request has more than {self._most} resources, scopes and items; send less at once"
                )
            if number == wanted and kind == _LENGTH:
                yield data[start:stop]


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number, kind, start and stop of each field."""
    place, end = 0, len(data)
    while place < end:
        tag, start = _varint(data, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(data, start)
        elif kind == _LENGTH:
            size, start = _varint(data, start)
            place = start + size
        elif kind in _FIXED_SIZES:
            place = start + _FIXED_SIZES[kind]
        else:
            raise BrokenMessage(f"a field has the wire type {kind}")
        if place > end:
            raise BrokenMessage(f"a field of {place - start} bytes is cut short")
        yield tag >> 3, kind, start, place


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    number = shift = 0
    for byte in data[place : place + _LONGEST_VARINT]:
        number |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return number, place
        shift += 7
    raise BrokenMessage("a number is cut short")
