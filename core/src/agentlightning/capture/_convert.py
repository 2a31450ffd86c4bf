"""From OpenTelemetry's finished spans to ours."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from opentelemetry.trace import StatusCode

from agentlightning import semconv
from agentlightning.capture._context import RolloutContext
from agentlightning.types import Json, Span, SpanSource, SpanStatus

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

SCOPE: Final = "agentlightning"
"""Instrumentation scope of spans that this package starts itself."""

JSON_ATTRIBUTES: Final = frozenset(
    {
        semconv.ACTION,
        semconv.DECISION_CHOICE,
        semconv.DECISION_OPTIONS,
        semconv.INPUT_MESSAGES,
        semconv.OBJECT,
        semconv.OUTPUT_MESSAGES,
        semconv.STATE,
        semconv.SYSTEM_INSTRUCTIONS,
        semconv.TASK,
        semconv.TOOL_DEFINITIONS,
    }
)
"""Attributes whose structured value travels as JSON text, because OpenTelemetry attributes are flat."""

_STATUS: Final = {
    StatusCode.UNSET: SpanStatus.UNSET,
    StatusCode.OK: SpanStatus.OK,
    StatusCode.ERROR: SpanStatus.ERROR,
}
_STACK: Final = "exception.stacktrace"
_OWN_FIELDS: Final = frozenset({semconv.ROLLOUT_ID, semconv.ATTEMPT_ID, semconv.OPERATION})


def to_span(found: ReadableSpan, context: RolloutContext) -> Span:
    """The span as the store keeps it."""
    own = found.get_span_context()
    parent = found.parent
    attributes = found.attributes or {}
    operation = str(attributes.get(semconv.OPERATION) or semconv.OPERATION_OTHER)
    agent = attributes.get(semconv.AGENT_NAME)
    failed = found.status.status_code is StatusCode.ERROR
    kept = {key: _value(key, value) for key, value in attributes.items() if key not in _OWN_FIELDS}
    if events := _events(found):
        kept[semconv.EVENTS] = events
    return Span(
        rollout_id=context.rollout_id,
        attempt_id=context.attempt_id,
        span_id=f"{own.span_id:016x}" if own else "",
        trace_id=f"{own.trace_id:032x}" if own else "",
        parent_id=f"{parent.span_id:016x}" if parent and operation != semconv.OPERATION_ROLLOUT else None,
        name=found.name,
        operation=operation,
        source=_source(found, operation),
        agent=None if agent is None else str(agent),
        start_ns=found.start_time or 0,
        end_ns=found.end_time or found.start_time or 0,
        status=_STATUS[found.status.status_code],
        error=(found.status.description or str(attributes.get(semconv.ERROR_TYPE, ""))) if failed else None,
        attributes=kept,
    )


def _events(found: ReadableSpan) -> list[Json]:
    """What happened during the span, without stack traces; rewards are told by spans of their own."""
    return [
        {
            "name": event.name,
            "time_ns": event.timestamp,
            "attributes": {
                key: _plain(value) for key, value in (event.attributes or {}).items() if key != _STACK
            },
        }
        for event in found.events
        if semconv.REWARD_SOURCE not in (event.attributes or {})
    ]


def _source(found: ReadableSpan, operation: str) -> SpanSource:
    scope = found.instrumentation_scope
    if scope is None or scope.name != SCOPE:
        return SpanSource.ADAPTER
    return SpanSource.RUNNER if operation == semconv.OPERATION_ROLLOUT else SpanSource.EMIT


def _value(key: str, value: object) -> Json:
    if type(value) is str:
        return _decoded(value) if key in JSON_ATTRIBUTES else value
    return _plain(value)


def _decoded(text: str) -> Json:
    try:
        decoded: Json = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):  # written by somebody else, or cut by an attribute limit
        return text
    return decoded


def _plain(value: object) -> Json:
    """What foreign instrumentations put into attributes, as JSON: nothing that a store would refuse."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
