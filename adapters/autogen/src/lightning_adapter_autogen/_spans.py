"""The way from the framework's own spans to one provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from autogen_core._telemetry import _genai
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider

from agentlightning import semconv
from lightning_adapter_autogen._tool_use import expected


class Trace:
    """What the framework sees of `opentelemetry.trace`: its spans go to one provider, and tools' are completed."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider

    def get_tracer(self, name: str) -> _Tracer:
        """The framework's way to its tracer."""
        return _Tracer(trace.get_tracer(name, tracer_provider=self._provider))

    def __getattr__(self, name: str) -> object:
        return getattr(trace, name)


def own_tracer() -> _Tracer:
    """The tracer that the framework makes its spans with."""
    found: Trace = vars(_genai)["trace"]
    return found.get_tracer("autogen-core")


class _Tracer:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.start_span = tracer.start_span

    @contextmanager
    def start_as_current_span(
        self, name: str, *, kind: SpanKind, context: Context | None, attributes: Mapping[str, str]
    ) -> Iterator[Span]:
        use = expected() if attributes.get(semconv.OPERATION) == semconv.OPERATION_TOOL else None
        with self._tracer.start_as_current_span(
            name, context, kind, attributes, end_on_exit=use is None
        ) as span:
            if use is not None:
                use.started(span)
            yield span
