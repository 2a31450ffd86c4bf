"""Which decision anything else that was observed belongs to: a tool's error, or a span that somebody rewarded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentlightning import semconv
from agentlightning.pipeline._lineage import DECISIVE, Lineage
from agentlightning.types import Json, Span, SpanStatus


class Belonging:
    """The decisions of one attempt, and what belongs to them.

    Args:
        spans: Of the attempt, in causal order.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self._lineage = Lineage(spans)
        self._asked: dict[str, Span] = {}
        self._inside: dict[str, Span] = {}
        self._before: dict[str, tuple[Span | None, Mapping[str, Span]]] = {}
        latest: Span | None = None
        of_agent: dict[str, Span] = {}
        for span in spans:
            self._before[span.span_id] = latest, of_agent
            if span.operation in DECISIVE and span.status is not SpanStatus.ERROR:
                latest, of_agent = span, {**of_agent, self._lineage.agent(span): span}
                self._asked |= dict.fromkeys(_tool_calls(span.attributes.get(semconv.OUTPUT_MESSAGES)), span)
                self._inside |= dict.fromkeys((near.span_id for near in self._lineage.upwards(span)), span)

    def decision(self, span: Span) -> Span | None:
        """The decision that a span belongs to; None if there is none.

        It is the span itself, or the answer that asked for it by the id of its tool call, or the last decision that
        happened in it, or the one that it happened in, or the last one before it, of the same agent if it has one.
        """
        if (asked := self._asked.get(str(span.attributes.get(semconv.TOOL_CALL_ID)))) is not None:
            return asked
        if (inside := self._inside.get(span.span_id)) is not None:
            return span if span.operation in DECISIVE else inside
        for near in self._lineage.upwards(span):
            if near.operation in DECISIVE and near.status is not SpanStatus.ERROR:
                return near
        latest, of_agent = self._before.get(span.span_id, (None, {}))
        agent = self._lineage.agent(span)
        return of_agent.get(agent) if agent else latest


def _tool_calls(messages: Json) -> Iterator[str]:
    """Ids of the tool calls in messages of either form, however deep."""
    if isinstance(messages, Mapping):
        if messages.get("type") in {"tool_call", "function"} and messages.get("id"):
            yield str(messages["id"])
        for inner in messages.values():
            yield from _tool_calls(inner)
    elif isinstance(messages, list | tuple):
        for inner in messages:
            yield from _tool_calls(inner)
