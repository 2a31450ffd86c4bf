"""The OpenTelemetry span processor that brings spans to the rollout they were started in."""

from __future__ import annotations

import weakref
from typing import NamedTuple

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from agentlightning import semconv
from agentlightning.capture._context import RolloutContext, current_rollout, rollout_of
from agentlightning.capture._convert import to_span


class _Open(NamedTuple):
    """A span that has started: whose it is, and a reference that tells when it is gone without having ended."""

    context: RolloutContext
    alive: weakref.ref[Span]


class RolloutSpanProcessor(SpanProcessor):
    """Stamps spans with the rollout they start in, and hands them to its sink wherever they end."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called by the SDK in the thread that starts the span."""
        own = span.get_span_context()
        context = self._rollout(parent_context)
        if context is None or own is None:
            return
        stamps: dict[str, str] = {
            semconv.ROLLOUT_ID: context.rollout_id,
            semconv.ATTEMPT_ID: context.attempt_id,
        }
        agent = baggage.get_baggage(semconv.AGENT_NAME, parent_context)
        if isinstance(agent, str) and semconv.AGENT_NAME not in (span.attributes or {}):
            stamps[semconv.AGENT_NAME] = agent
        span.set_attributes(stamps)
        span_id, spans = own.span_id, self._open
        spans[span_id] = _Open(context, weakref.ref(span, lambda _: spans.pop(span_id, None)))

    def on_end(self, span: ReadableSpan) -> None:
        """Called by the SDK in the thread that ends the span."""
        own = span.get_span_context()
        found = self._open.pop(own.span_id, None) if own else None
        if found is not None:
            found.context.sink.add(to_span(span, found.context))

    def _rollout(self, parent_context: Context | None) -> RolloutContext | None:
        """The rollout of the given context, of the code that runs, or of the parent span."""
        if parent_context is not None and (context := rollout_of(parent_context)):
            return context
        if context := current_rollout():
            return context
        parent = trace.get_current_span(parent_context).get_span_context()
        found = self._open.get(parent.span_id)
        return found.context if found else None
