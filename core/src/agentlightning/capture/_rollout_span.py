"""The root span of an attempt."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags

from agentlightning import semconv
from agentlightning.capture._context import RolloutContext, in_rollout
from agentlightning.capture._tracer import own_tracer
from agentlightning.types import Json


@contextmanager
def rollout_span(context: RolloutContext, *, task: Json) -> Iterator[Span]:
    """Makes `context` the current rollout for the block, inside a root span of its own trace.

    What the block raises is noted on the span and gets out untouched.
    """
    with in_rollout(context):
        span = _root(task)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
                span.set_attribute(semconv.CANCELLED, True)
                raise
            except BaseException as error:
                span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
                raise


def _root(task: Json) -> Span:
    """A root span that is recorded even where the process samples its traces: children follow their parent."""
    tracer = own_tracer()
    attributes = {
        semconv.OPERATION: semconv.OPERATION_ROLLOUT,
        semconv.TASK: msgspec.json.encode(task, enc_hook=repr).decode(),
    }
    unrelated = trace.set_span_in_context(trace.INVALID_SPAN)
    span = tracer.start_span("rollout", unrelated, attributes=attributes)
    if span.is_recording():
        return span
    sampled = SpanContext(
        secrets.randbits(128) or 1,
        secrets.randbits(64) or 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return tracer.start_span(
        "rollout", trace.set_span_in_context(NonRecordingSpan(sampled)), attributes=attributes
    )
