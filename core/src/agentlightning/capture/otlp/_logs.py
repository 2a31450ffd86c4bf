"""From log records to spans: messages, calls and evaluations that were sent as events."""

from __future__ import annotations

from typing import Final

from agentlightning import semconv
from agentlightning.capture.otlp import names
from agentlightning.capture.otlp._found import FoundLog, Reading
from agentlightning.capture.otlp._spans import EVALUATION_EVENT, default_agent, default_error, reward_source
from agentlightning.capture.otlp._values import cut
from agentlightning.capture.otlp._whose import (
    LONGEST_NAME,
    checked,
    describe,
    digest_id,
    identifier,
    parent,
    settle,
    take_own,
    whose,
)
from agentlightning.types import Json, Span, SpanSource, SpanStatus

INFERENCE_EVENT: Final = "gen_ai.client.inference.operation.details"
_OLD_EVENT_NAME: Final = "event.name"
_ERROR_SEVERITY: Final = 17


def span_of(found: FoundLog, reading: Reading) -> Span:
    """The span that a log record becomes, a point in time below the span that it was logged in.

    A record of an inference without a span is that call. With one, the call is the span that it belongs to, and the
    record a message: a call that is there twice would be a call without tokens.

    Raises:
        Unreadable: It cannot be taken.
    """
    attributes, notes = found.attributes, list[str]()
    rollout_id, attempt_id = whose(attributes, found.origin, reading)
    identity = (found.trace_id, found.span_id, found.event, found.time_ns, found.body, attributes)
    span_id = digest_id(*identity, digits=16)
    attributes = settle(attributes, take_own(attributes, reading, notes), reading)
    event = found.event or str(attributes.get(_OLD_EVENT_NAME) or "")
    parent_id = parent(found.span_id)
    operation = _operation(event, attributes, alone=parent_id is None)
    if operation == semconv.OPERATION_REWARD:
        attributes |= reward_source(reading)
        if parent_id is not None:
            attributes.setdefault(semconv.REWARD_TARGET, parent_id)
    elif found.body is not None:
        attributes.setdefault(semconv.MESSAGE, found.body)
    if severity := found.severity_text or found.severity:
        attributes[names.LOG_SEVERITY] = severity
    status = SpanStatus.ERROR if found.severity >= _ERROR_SEVERITY else SpanStatus.UNSET
    agent = default_agent(attributes, found.origin.resource)
    describe(attributes, found.origin, notes, dropped=found.dropped)
    message = found.body if isinstance(found.body, str) else ""
    return checked(
        Span(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            span_id=span_id,
            trace_id=_trace(found.trace_id, attempt_id),
            parent_id=parent_id,
            name=cut(event or "log", LONGEST_NAME),
            operation=operation,
            source=SpanSource.OTLP,
            agent=agent,
            start_ns=found.time_ns,
            end_ns=found.time_ns,
            status=status,
            error=default_error(status, message, attributes),
            attributes=attributes,
        )
    )


def _operation(event: str, attributes: dict[str, Json], *, alone: bool) -> str:
    operation = attributes.pop(semconv.OPERATION, None)
    if event == EVALUATION_EVENT and isinstance(attributes.get(semconv.EVALUATION_SCORE), int | float):
        return semconv.OPERATION_REWARD
    if event == INFERENCE_EVENT and alone:
        return cut(str(operation or semconv.OPERATION_CHAT), LONGEST_NAME)
    return semconv.OPERATION_MESSAGE


def _trace(text: str, attempt_id: str) -> str:
    """The id of the trace; records outside of any are one trace for each attempt."""
    return identifier(text, 32, "trace") if text.strip("0") else digest_id(attempt_id, digits=32)
