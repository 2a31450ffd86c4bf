"""A span that its store refuses, made such that the store takes it: a call is never lost for what it says."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.errors import LimitExceeded
from agentlightning.types import Json, Span, TokenRecord

_TEXTS: Final = (
    semconv.INPUT_MESSAGES,
    semconv.TOOL_DEFINITIONS,
    semconv.OUTPUT_MESSAGES,
    semconv.NATIVE_REQUEST,
)
"""Attributes of any size."""
_LARGE: Final = 2**20
_DEEPEST: Final = 100
_LEFT_OUT: Final = "the call is larger than what the store takes as one span: what was said is left out"


def storable(span: Span, refusal: Exception) -> Span | None:
    """The span that is kept in place of one that was refused; None if what is wrong with it is something else.

    A number that is wider than 64 bits, infinite or none becomes a text, and what is nested too deep its JSON. Of a
    span that is too large, the native request goes first, as the messages say the same; then all that was said, and
    the call is marked incomplete.
    """
    if isinstance(refusal, LimitExceeded):
        return _smaller(span)
    plain = {name: _plain(value, _DEEPEST) for name, value in span.attributes.items()}
    return None if plain == span.attributes else msgspec.structs.replace(span, attributes=plain)


def _smaller(span: Span) -> Span | None:
    if _size(span) < _LARGE:
        return None
    attributes = dict(span.attributes)
    if attributes.pop(semconv.NATIVE_REQUEST, None) is not None and semconv.INPUT_MESSAGES in attributes:
        return msgspec.structs.replace(span, attributes=attributes)
    for name in _TEXTS:
        attributes.pop(name, None)
    attributes[semconv.INCOMPLETE] = _LEFT_OUT
    tokens = tuple(
        TokenRecord(version=one.version, finish_reason=one.finish_reason, incomplete=_LEFT_OUT)
        for one in span.tokens
    )
    return msgspec.structs.replace(span, attributes=attributes, tokens=tokens)


def _size(span: Span) -> int:
    said = [span.attributes[name] for name in _TEXTS if name in span.attributes]
    return len(msgspec.json.encode([said, span.tokens]))


def _plain(value: Json, levels: int) -> Json:
    if isinstance(value, dict | list) and not levels:
        return msgspec.json.encode(value).decode()
    if isinstance(value, dict):
        return {name: _plain(child, levels - 1) for name, child in value.items()}
    if isinstance(value, list):
        return [_plain(child, levels - 1) for child in value]
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
