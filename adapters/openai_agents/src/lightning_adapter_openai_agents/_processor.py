"""From the SDK's spans to OpenTelemetry's, each current for what happens inside of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import dataclass
from typing import Any, Final

from agents.tracing import (
    AgentSpanData,
    CustomSpanData,
    FunctionSpanData,
    GenerationSpanData,
    GuardrailSpanData,
    HandoffSpanData,
    ResponseSpanData,
    Span,
    Trace,
    TracingProcessor,
)
from agents.tracing.span_data import MCPListToolsSpanData, SpanData, TaskSpanData, TurnSpanData
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Status, StatusCode, Tracer

from agentlightning import semconv
from agentlightning.capture.content import say
from agentlightning.capture.model_call import failed, is_cancellation

_LEFT_OUT: Final = (TaskSpanData, TurnSpanData, GenerationSpanData, ResponseSpanData)
"""Frames around agents, and model calls: the SDK below has a span for each that says what was sent."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """A span that has started.

    Attributes:
        token: Takes it from the context again.
        handled: What was being handled when it started, which is no failure of its own.
        caught: What the SDK caught and reported.
    """

    span: OtelSpan
    token: Token[Context]
    handled: BaseException | None
    caught: BaseException | None = None


class Processor(TracingProcessor):
    """Starts and ends an OpenTelemetry span with each of the SDK's.

    Args:
        tracer: Makes them.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[str, _Open] = {}

    def on_span_start(self, span: Span[Any]) -> None:
        """Called in the context that the span is for."""
        data = span.span_data
        if isinstance(data, _LEFT_OUT):
            return
        name, attributes = _named(data)
        started = self._tracer.start_span(name, attributes=attributes)
        token = otel_context.attach(trace.set_span_in_context(started))
        self._open[span.span_id] = _Open(span=started, token=token, handled=sys.exception())

    def on_span_end(self, span: Span[Any]) -> None:
        """Called where the span ends, with the exception that it ends with."""
        found = self._open.pop(span.span_id, None)
        if found is None:
            return
        _describe(found.span, span.span_data)
        error = found.caught or sys.exception()
        if error is not None and (error is not found.handled or is_cancellation(error)):
            failed(found.span, error)
        elif span.error is not None:
            found.span.set_status(Status(StatusCode.ERROR, span.error["message"]))
        if trace.get_current_span() is found.span:  # it may end in another context than it started in
            otel_context.detach(found.token)
        found.span.end()

    def set_error(
        self, method: Callable[..., object], span: Span[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Wraps `set_error` of the SDK's spans, whose text leaves out what went wrong."""
        found, error = self._open.get(span.span_id), sys.exception()
        if found is not None and error is not found.handled:
            found.caught = error
        return method(*args, **kwargs)

    def on_trace_start(self, trace: Trace) -> None:
        """A trace is no span."""

    def on_trace_end(self, trace: Trace) -> None:
        """A trace is no span."""

    def shutdown(self) -> None:
        """Nothing waits."""

    def force_flush(self) -> None:
        """Nothing waits."""


def from_agent_context(
    method: Callable[..., object], _: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> object:
    """Wraps `ToolContext.from_agent_context`, which is where a tool's span learns of its call."""
    span = trace.get_current_span()
    attributes: Mapping[str, object] = getattr(span, "attributes", None) or {}
    if attributes.get(semconv.OPERATION) == semconv.OPERATION_TOOL:
        span.set_attribute(semconv.TOOL_CALL_ID, args[1] if len(args) > 1 else kwargs["tool_call_id"])
    return method(*args, **kwargs)


def _named(data: SpanData) -> tuple[str, dict[str, str]]:
    """A span's name, and what is known of it when it starts."""
    match data:
        case AgentSpanData():
            operation = {semconv.OPERATION: semconv.OPERATION_AGENT, semconv.AGENT_NAME: data.name}
            return f"{semconv.OPERATION_AGENT} {data.name}", operation
        case FunctionSpanData():
            operation = {semconv.OPERATION: semconv.OPERATION_TOOL, semconv.TOOL_NAME: data.name}
            return f"{semconv.OPERATION_TOOL} {data.name}", operation
        case HandoffSpanData():
            return f"handoff from {data.from_agent}", {}
        case GuardrailSpanData():
            return f"{semconv.OPERATION_GUARDRAIL} {data.name}", {
                semconv.OPERATION: semconv.OPERATION_GUARDRAIL
            }
        case MCPListToolsSpanData():
            return f"tools/list {data.server}", {}
        case CustomSpanData():
            return data.name, {}
        case _:
            return data.type, {}


def _describe(span: OtelSpan, data: SpanData) -> None:
    """What is known of a span when it ends."""
    match data:
        case FunctionSpanData():
            if data.input is not None:
                say(span, semconv.TOOL_CALL_ARGUMENTS, lambda: data.input)
            if data.output is not None:
                say(span, semconv.TOOL_CALL_RESULT, lambda: str(data.output))
        case HandoffSpanData():
            span.update_name(f"handoff from {data.from_agent} to {data.to_agent}")
        case GuardrailSpanData():
            span.set_attribute(semconv.GUARDRAIL_TRIGGERED, data.triggered)
        case CustomSpanData():
            say(span, semconv.OBJECT, lambda: data.data)
        case _:
            pass
