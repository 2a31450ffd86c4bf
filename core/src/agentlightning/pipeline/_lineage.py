"""Who decided and where: what a span inherits from the spans it happened in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from agentlightning import semconv
from agentlightning.types import Span, Transition

DECISIVE: Final = frozenset({semconv.OPERATION_CHAT, semconv.OPERATION_DECISION, semconv.OPERATION_ACTION})
"""Operations in which an agent decides something."""


class Lineage:
    """The spans of one attempt by what they happened in."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._by_id = {span.span_id: span for span in spans}

    def upwards(self, span: Span) -> Iterator[Span]:
        """The span and what it happened in, inside out; a ring of parents is walked once."""
        seen: set[str] = set()
        near: Span | None = span
        while near is not None and near.span_id not in seen:
            yield near
            seen.add(near.span_id)
            near = self._by_id.get(near.parent_id or "")

    def agent(self, span: Span) -> str:
        """Name of the nearest agent; empty if nobody said."""
        names = (near.agent or near.attributes.get(semconv.AGENT_NAME) for near in self.upwards(span))
        return next((str(name) for name in names if name), "")

    def location(self, span: Span) -> str:
        """Node or function of the agent's program; empty if nobody said."""
        for near in self.upwards(span):
            if location := near.attributes.get(semconv.LOCATION):
                return str(location)
            if near.operation == semconv.OPERATION_OTHER:
                return near.name
        return ""


def span_key(span: Span) -> str:
    """Attempt and span, as `Experience.environment` names decisions."""
    return f"{span.attempt_id}/{span.span_id}"


def decision_key(transition: Transition) -> str:
    """Attempt and span of a transition, without the index of its choice."""
    attempt_id, _, span = transition.id.rpartition("/")
    return f"{attempt_id}/{span.partition(':')[0]}"


def model_of(span: Span) -> str:
    """Model that served a call, else the one that was asked for; empty if nobody said."""
    attributes = span.attributes
    return str(attributes.get(semconv.RESPONSE_MODEL) or attributes.get(semconv.REQUEST_MODEL) or "")
