"""The SDK's traces and spans, led to our processor beside the user's own, and not to the vendor."""

from __future__ import annotations

from typing import Any, TypeVar

from agents.tracing import Span, SpanData, Trace, TracingProcessor
from agents.tracing.config import TracingConfig
from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor
from agents.tracing.provider import SynchronousMultiTracingProcessor, TraceProvider
from agents.tracing.spans import SpanImpl
from agents.tracing.traces import ReattachedTrace, TraceImpl

from agentlightning.capture import current_rollout

_Data = TypeVar("_Data", bound=SpanData)


class Provider(TraceProvider):
    """Asks the user's provider for every trace and span.

    Inside of rollouts those that the user has switched off are made, too, and nobody but our processor sees them.

    Args:
        inner: The user's provider, to which every setting goes.
        processor: Ours.
    """

    def __init__(self, inner: TraceProvider, processor: TracingProcessor) -> None:
        self._inner = inner
        self._processor = processor

    def create_trace(  # noqa: PLR0917 - the SDK's signature
        self,
        name: str,
        trace_id: str | None = None,
        group_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        disabled: bool = False,
        tracing: TracingConfig | None = None,
    ) -> Trace:
        """A trace that is seen by those who may see it."""
        made = self._inner.create_trace(name, trace_id, group_id, metadata, disabled, tracing)
        if isinstance(made, TraceImpl):
            made._processor = self._seen_by(made._processor)
        elif current_rollout() is not None:
            return TraceImpl(name, trace_id, group_id, metadata, self._processor)
        return made

    def create_span(
        self,
        span_data: _Data,
        span_id: str | None = None,
        parent: Trace | Span[Any] | None = None,
        disabled: bool = False,
    ) -> Span[_Data]:
        """A span that is seen by those who may see it."""
        made = self._inner.create_span(span_data, span_id, parent, disabled)
        span = parent if isinstance(parent, Span) else self._inner.get_current_span()
        trace = parent if isinstance(parent, Trace) else self._inner.get_current_trace()
        if isinstance(made, SpanImpl):
            hidden = getattr(parent or trace, "_processor", None) is self._processor
            made._processor = self._processor if hidden else self._seen_by(made._processor)
            return made
        if current_rollout() is None or not isinstance(trace, TraceImpl | ReattachedTrace):
            return made
        parent_id = span.span_id if isinstance(span, SpanImpl) else None
        return SpanImpl(trace.trace_id, span_id, parent_id, self._processor, span_data, None)

    def _seen_by(self, others: TracingProcessor) -> TracingProcessor:
        if not isinstance(others, SynchronousMultiTracingProcessor):
            return self._processor
        both = SynchronousMultiTracingProcessor()  # type: ignore[no-untyped-call]
        both.set_processors([*(one for one in others._processors if not _is_vendors(one)), self._processor])
        return both

    def register_processor(self, processor: TracingProcessor) -> None:
        """The user's provider gets it."""
        self._inner.register_processor(processor)

    def set_processors(self, processors: list[TracingProcessor]) -> None:
        """The user's provider gets them; ours stays."""
        self._inner.set_processors(processors)

    def get_current_trace(self) -> Trace | None:
        """That of the context."""
        return self._inner.get_current_trace()

    def get_current_span(self) -> Span[Any] | None:
        """That of the context."""
        return self._inner.get_current_span()

    def set_disabled(self, disabled: bool) -> None:
        """Switches the user's own traces."""
        self._inner.set_disabled(disabled)

    def time_iso(self) -> str:
        """Now."""
        return self._inner.time_iso()

    def gen_trace_id(self) -> str:
        """A new id."""
        return self._inner.gen_trace_id()

    def gen_span_id(self) -> str:
        """A new id."""
        return self._inner.gen_span_id()

    def gen_group_id(self) -> str:
        """A new id."""
        return self._inner.gen_group_id()

    def force_flush(self) -> None:
        """Flushes the user's processors."""
        self._inner.force_flush()

    def shutdown(self) -> None:
        """Shuts the user's provider down."""
        self._inner.shutdown()


def _is_vendors(processor: TracingProcessor) -> bool:
    exporter = getattr(processor, "_exporter", None)
    return isinstance(processor, BatchTraceProcessor) and isinstance(exporter, BackendSpanExporter)
