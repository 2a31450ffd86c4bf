"""From spans as they were sent to spans as the store keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

from agentlightning import semconv
from agentlightning.capture.otlp import names
from agentlightning.capture.otlp._found import FoundSpan, Reading, Unreadable
from agentlightning.capture.otlp._tokens import tokens_of
from agentlightning.capture.otlp._values import cut
from agentlightning.capture.otlp._whose import (
    LONGEST_NAME,
    checked,
    describe,
    digest_id,
    identifier,
    operation_of,
    parent,
    settle,
    take_own,
    whose,
)
from agentlightning.types import Json, Span, SpanSource, SpanStatus

EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
STATUS: Final = {1: SpanStatus.OK, 2: SpanStatus.ERROR}
SOURCES: Final = {source.value: source for source in SpanSource}


def spans_of(found: FoundSpan, reading: Reading) -> Iterator[Span]:
    """The span, and a reward for each evaluation among its events that no span tells. Raises `Unreadable`."""
    attributes, notes = found.attributes, list[str]()
    rollout_id, attempt_id = whose(attributes, found.origin, reading)
    own = take_own(attributes, reading, notes)
    operation = operation_of(attributes, reading)
    span_id = _own_id(own, names.SPAN_ID) or identifier(found.span_id, 16, "span")
    trace_id = _own_id(own, names.TRACE_ID) or identifier(found.trace_id, 32, "trace")
    start_ns, end_ns = _times(found, own, notes)
    status = STATUS.get(found.status, SpanStatus.UNSET)
    tokens = tokens_of(own, attributes)
    agent = _agent(attributes, found, own)
    error = own[names.ERROR] if names.ERROR in own else default_error(status, found.message, attributes)
    attributes = settle(attributes, own, reading)
    events, rewards = _sorted_out(found.events)
    if events:
        attributes[semconv.EVENTS] = events
    if operation == semconv.OPERATION_REWARD:
        attributes |= reward_source(reading)
    describe(attributes, found.origin, notes, dropped=found.dropped)
    span = checked(
        Span(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            span_id=span_id,
            trace_id=trace_id,
            parent_id=_own_id(own, names.PARENT_ID) or parent(found.parent_id),
            name=cut(found.name, LONGEST_NAME),
            operation=operation,
            source=SOURCES.get(str(own.get(names.SOURCE)), SpanSource.OTLP),
            agent=agent,
            start_ns=start_ns,
            end_ns=end_ns,
            status=status,
            error=None if error is None else str(error),
            attributes=attributes,
            tokens=tokens,
            sequence=_integer(own, names.SEQUENCE, 0),
            late=own.get(names.LATE) is True,
        )
    )
    yield span
    for index, event in enumerate(rewards):
        yield _reward(event, span, index=index, reading=reading)


def default_error(status: SpanStatus, message: str, attributes: dict[str, Json]) -> str | None:
    """What went wrong, as OpenTelemetry says it."""
    if status is not SpanStatus.ERROR:
        return None
    return message or str(attributes.get(semconv.ERROR_TYPE) or "") or None


def default_agent(attributes: dict[str, Json], resource: Mapping[str, Json]) -> str | None:
    """Name of the agent, as OpenTelemetry says it."""
    agent = attributes.get(semconv.AGENT_NAME, resource.get(semconv.AGENT_NAME))
    return None if agent is None else cut(str(agent), LONGEST_NAME)


def reward_source(reading: Reading) -> dict[str, Json]:
    """The attribute that says who gives rewards, if the reading does."""
    return {} if reading.reward_source is None else {semconv.REWARD_SOURCE: reading.reward_source.value}


def _agent(attributes: dict[str, Json], found: FoundSpan, own: dict[str, Json]) -> str | None:
    if names.AGENT not in own:
        return default_agent(attributes, found.origin.resource)
    return None if own[names.AGENT] is None else str(own[names.AGENT])


def _times(found: FoundSpan, own: dict[str, Json], notes: list[str]) -> tuple[int, int]:
    """Start and end; an end before the start is moved there, and that is noted."""
    start_ns = _integer(own, names.START_NS, found.start_ns)
    end_ns = _integer(own, names.END_NS, found.end_ns)
    if end_ns < start_ns and names.END_NS not in own:
        notes.append(f"the end was {start_ns - end_ns} ns before the start, and was moved there")
        end_ns = start_ns
    return start_ns, end_ns


def _own_id(own: dict[str, Json], name: str) -> str | None:
    found = own.get(name)
    return found if isinstance(found, str) else None


def _integer(own: dict[str, Json], name: str, default: int) -> int:
    found = own.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int):
        raise Unreadable(f"{name} is an integer, found {found!r:.100}")
    return found


def _sorted_out(events: list[dict[str, Json]]) -> tuple[list[dict[str, Json]], list[dict[str, Json]]]:
    """The events to keep, and the attributes of the evaluations that are rewards.

    Evaluations that name a source are our own: a span of their own tells them, too.
    """
    kept: list[dict[str, Json]] = []
    rewards: list[dict[str, Json]] = []
    for event in events:
        attributes = cast("dict[str, Json]", event["attributes"])
        numbered = isinstance(attributes.get(semconv.EVALUATION_SCORE), int | float)
        if event["name"] != EVALUATION_EVENT or not (numbered or semconv.REWARD_SOURCE in attributes):
            kept.append(event)
        elif semconv.REWARD_SOURCE not in attributes:
            rewards.append({**attributes, "time_ns": event["time_ns"]})
    return kept, rewards


def _reward(event: dict[str, Json], span: Span, *, index: int, reading: Reading) -> Span:
    attributes = {semconv.REWARD_TARGET: span.span_id, **event, **reward_source(reading)}
    time_ns = cast("int", attributes.pop("time_ns"))
    return checked(
        Span(
            rollout_id=span.rollout_id,
            attempt_id=span.attempt_id,
            span_id=digest_id(span.trace_id, span.span_id, index, digits=16),
            trace_id=span.trace_id,
            parent_id=span.span_id,
            name=cut(f"reward {attributes.get(semconv.EVALUATION_NAME, 'reward')}", LONGEST_NAME),
            operation=semconv.OPERATION_REWARD,
            source=SpanSource.OTLP,
            start_ns=time_ns,
            end_ns=time_ns,
            attributes=attributes,
        )
    )
