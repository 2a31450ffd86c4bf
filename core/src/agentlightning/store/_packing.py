"""Spans packed for the store, with large attributes apart, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from agentlightning.errors import InvalidReward, LimitExceeded, StoreUnavailable
from agentlightning.store._codec import digest, pack, unpack, unpack_json
from agentlightning.store._limits import Limits
from agentlightning.store._rows import FoundSpan, span_of
from agentlightning.types import Reward, Span, reward_of

LARGE_SPAN_BYTES: Final = 16 * 2**10
"""Spans of more bytes are looked through for large attributes."""
LARGE_ATTRIBUTE_BYTES: Final = 4 * 2**10
"""Attributes of more bytes are stored apart, once for all spans that have the same."""


class PackedSpan(msgspec.Struct, frozen=True):
    """A span ready to be stored.

    Attributes:
        body: Packed `Span`, without the attributes that are in `blobs`.
        references: Packed digests by attribute, where there are blobs.
        blobs: Large payloads by digest.
        size_bytes: Of all together.
    """

    attempt_id: str
    rollout_id: str
    span_id: str
    operation: str
    agent: str | None
    name: str
    start_ns: int
    body: bytes
    reward: Reward | None
    size_bytes: int
    references: bytes | None = None
    blobs: Mapping[bytes, bytes] = {}


def packed_span(span: Span, *, limits: Limits) -> PackedSpan:
    """Packs a span.

    Raises:
        InvalidReward: It claims to be a reward, and is none.
        LimitExceeded: It is too large.
        ValueError: It has something that cannot be stored.
    """
    what = f"span {span.span_id!r}"
    for number in (span.start_ns, span.end_ns):
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{what} has the time {number!r}, which is wider than 64 bits")
    reward = _reward(span)
    body = pack(span, what=what)
    size_bytes = len(body)
    if size_bytes > limits.span_bytes:
        raise LimitExceeded(
            f"{what} ({span.name!r}) has {size_bytes} bytes, the store takes {limits.span_bytes};"
            " shorten its attributes; nothing of the batch was stored"
        )
    references: bytes | None = None
    blobs: dict[bytes, bytes] = {}
    if size_bytes > LARGE_SPAN_BYTES:
        body, references, blobs = _apart(span, body)
    return PackedSpan(
        span.attempt_id,
        span.rollout_id,
        span.span_id,
        span.operation,
        span.agent,
        span.name,
        span.start_ns,
        body,
        reward,
        size_bytes,
        references,
        blobs,
    )


def unpacked_span(found: FoundSpan, blobs: Mapping[bytes, bytes]) -> Span:
    """The span as it was, with its place.

    Raises:
        StoreUnavailable: A payload that it refers to is not there.
    """
    span = span_of(found.number, found.late, found.body)
    if found.blobs is None:
        return span
    references = unpack(found.blobs, dict[str, bytes])
    missing = [name for name, reference in references.items() if reference not in blobs]
    if missing:
        raise StoreUnavailable(
            f"span {span.span_id!r} of attempt {span.attempt_id!r} lost its large attributes {missing}:"
            " the store is damaged; restore a copy"
        )
    large = {name: unpack_json(blobs[reference]) for name, reference in references.items()}
    attributes = {name: large.get(name, value) for name, value in span.attributes.items()}
    return msgspec.structs.replace(span, attributes=attributes)


def _apart(span: Span, body: bytes) -> tuple[bytes, bytes | None, dict[bytes, bytes]]:
    """The body without its large attributes, their digests by name, and they by digest."""
    packed = {name: pack(value, what=name) for name, value in span.attributes.items()}
    large = {name: value for name, value in packed.items() if len(value) > LARGE_ATTRIBUTE_BYTES}
    if not large:
        return body, None, {}
    digests = {name: digest(value) for name, value in large.items()}
    # a large attribute keeps its place, so that the order of attributes survives
    rest = {name: None if name in large else value for name, value in span.attributes.items()}
    thin = pack(msgspec.structs.replace(span, attributes=rest), what="span")
    return thin, pack(digests, what="digests"), {digests[name]: value for name, value in large.items()}


def _reward(span: Span) -> Reward | None:
    try:
        return reward_of(span)
    except InvalidReward as error:
        raise InvalidReward(f"span {span.span_id!r}: {error}; nothing of the batch was stored") from error
    except ValueError as error:
        raise InvalidReward(f"span {span.span_id!r} has a reward of unknown source: {error}") from error
