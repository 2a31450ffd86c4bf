"""Marks of streams that have begun: what is left of a call whose gateway died."""

from __future__ import annotations

from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.types import Span, SpanStatus, TokenRecord

_DIED: Final = "the gateway ended before the call did"


def settled(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Leaves out the marks of calls that are there; each other one becomes a call without tokens."""
    begun = {
        span.span_id: str(span.attributes.get(semconv.BEGUN_CALL))
        for span in spans
        if span.operation == semconv.OPERATION_BEGUN
    }
    if not begun:
        return spans
    known = {span.span_id for span in spans}
    return tuple(
        _lost(span, begun[span.span_id]) if span.span_id in begun else span
        for span in spans
        if begun.get(span.span_id) not in known
    )


def _lost(mark: Span, call: str) -> Span:
    attributes = {
        semconv.REQUEST_MODEL: mark.attributes.get(semconv.REQUEST_MODEL),
        semconv.INCOMPLETE: _DIED,
    }
    return msgspec.structs.replace(
        mark,
        span_id=call,
        name=semconv.OPERATION_CHAT,
        operation=semconv.OPERATION_CHAT,
        status=SpanStatus.ERROR,
        error=_DIED,
        attributes=attributes,
        tokens=(TokenRecord(incomplete=_DIED),),
    )
