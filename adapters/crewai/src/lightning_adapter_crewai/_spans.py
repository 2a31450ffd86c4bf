"""Spans of what is between two events: a start, and the end that names it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from agentlightning import semconv
from agentlightning.capture import RolloutContext, current_rollout
from lightning_adapter_crewai._describe import Event, begun, ended, failure

_log = logging.getLogger(__name__)
_Described = TypeVar("_Described")
_KEY: Final = "agl-crewai-events"


@dataclass(frozen=True, slots=True)
class _Open:
    """A span whose end has not been told yet.

    Attributes:
        span: Invalid for what is no span, but has an end, which must not be taken for another's.
        kind: Type of the event that started it.
        before: The context in which it started, which is current again after it.
    """

    span: Span
    kind: str
    before: Context
    rollout: RolloutContext | None
    content: bool


class EventSpans:
    """Starts and ends spans in the context in which events are emitted, so that what happens between is below them.

    CrewAI keeps the ids of open events in a context variable of its own, with the same extent; an end carries the id
    of its start, and is found by it wherever it is emitted. That id is the one of the innermost event that is open: it
    is wrong, for this end and all around it, after an end that was told twice, such as that of a model's call whose
    answer did not fit. Then the context says which start it is.

    Args:
        tracer: Makes the spans.
        content: Whether messages, arguments and results are recorded outside of rollouts; inside they always are.
        pairs: The type of start that each type of end belongs to.
    """

    def __init__(self, tracer: Tracer, *, content: bool, pairs: Mapping[str, str]) -> None:
        self._tracer = tracer
        self._content = content
        self._pairs = pairs
        self._starts = frozenset(pairs.values())
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()

    def before(self, source: object, event: Event) -> None:
        """Starts a span if the event is a start. Called before handlers run: those run in copies of this context."""
        rollout = current_rollout()
        content = self._content or rollout is not None
        start = _safely(lambda: begun(source, event, content))
        if start is None and event.type not in self._starts:
            return
        current = otel_context.get_current()
        span: Span = trace.INVALID_SPAN
        inside = current
        if start is not None:
            span = self._tracer.start_span(start[0], attributes=start[1])  # type: ignore[arg-type]
            inside = trace.set_span_in_context(span, current)
        with self._lock:
            self._open[event.event_id] = _Open(span, event.type, current, rollout, content)
        otel_context.attach(otel_context.set_value(_KEY, (*_ids(current), event.event_id), inside))

    def after(self, event: Event) -> None:
        """Ends a span if the event is the end of one. Called after the bus has found out which start it belongs to."""
        around = _ids(otel_context.get_current())
        with self._lock:
            key = self._start_of(event, around)
            found = self._open.pop(key, None)
        if found is None:
            return
        _end(found, _safely(lambda: ended(event, found.content)) or {}, error=failure(event))
        if key in around:
            otel_context.attach(found.before)

    def _start_of(self, event: Event, around: Sequence[str]) -> str:
        """Id of the start that an end belongs to, `around` being those of the context; empty if there is none."""
        wanted = self._pairs.get(event.type)
        fitting = (event.started_event_id, *reversed(around))
        return next((key for key in fitting if key in self._open and self._open[key].kind == wanted), "")

    def close(self, rollout: RolloutContext) -> None:
        """Ends the spans of a rollout that are still open."""
        with self._lock:
            left = {key: one for key, one in self._open.items() if one.rollout is rollout}
            for key in left:
                del self._open[key]
        for one in reversed(left.values()):
            _end(one, {semconv.CANCELLED: True}, error=None)


def _end(found: _Open, attributes: Mapping[str, object], *, error: tuple[str, str] | None) -> None:
    found.span.set_attributes(attributes)  # type: ignore[arg-type]
    if error is not None:
        kind, message = error
        found.span.set_attribute(semconv.ERROR_TYPE, kind)
        found.span.set_status(Status(StatusCode.ERROR, message))
    found.span.end()


def _ids(context: Context) -> tuple[str, ...]:
    found = otel_context.get_value(_KEY, context)
    return found if isinstance(found, tuple) else ()


def _safely(describe: Callable[[], _Described | None]) -> _Described | None:
    """Capture never breaks a run: what cannot be described is left out, and logged."""
    try:
        return describe()
    except Exception:  # noqa: BLE001 - a border to whatever objects an agent hands over
        _log.exception("an event of CrewAI could not be described")
        return None
