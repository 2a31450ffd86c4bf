"""Marks of streams that have begun: what is left of a call whose gateway died."""

from __future__ import annotations

from typing import Final

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
    return Span(
        rollout_id=mark.rollout_id,
        attempt_id=mark.attempt_id,
        span_id=call,
        trace_id=mark.trace_id,
        parent_id=mark.parent_id,
        name=semconv.OPERATION_CHAT,
        operation=semconv.OPERATION_CHAT,
        source=mark.source,
        sequence=mark.sequence,
        start_ns=mark.start_ns,
        end_ns=mark.end_ns,
        status=SpanStatus.ERROR,
        error=_DIED,
        attributes={
            semconv.REQUEST_MODEL: mark.attributes.get(semconv.REQUEST_MODEL),
            semconv.INCOMPLETE: _DIED,
        },
        tokens=(TokenRecord(incomplete=_DIED),),
    )
