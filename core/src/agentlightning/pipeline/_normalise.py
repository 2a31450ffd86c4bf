"""Stage `normalise`: spans of other instrumentations say in our words what they said in theirs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.config import decode_params
from agentlightning.pipeline.dialects import (
    Dialect,
    Meaning,
    agentops,
    openinference,
    openllmetry,
    opentelemetry,
)
from agentlightning.types import Episode, Experience, Json, Span, SpanSource, SpanStatus

DIALECTS: Final[tuple[Dialect, ...]] = (openinference, agentops, openllmetry, opentelemetry)
"""In order: what the first one says is not said again."""

_FOREIGN: Final = frozenset({SpanSource.ADAPTER, SpanSource.OTLP})
"""Sources through which spans of other instrumentations come; all others are our own."""


class NormaliseParams(msgspec.Struct, frozen=True, kw_only=True):
    """The stage has no parameters."""


class Normalise:
    """Adds to foreign spans the GenAI attributes, the operation, the agent and the error that their dialects tell.

    Only adds: every attribute stays as it was, and what a span says in our words already is believed. Spans without a
    word of another dialect, and all of our own, are the very same objects afterwards. A second time changes nothing.
    """

    name = "normalise"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, NormaliseParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        return replace(experience, episodes=tuple(map(_normalised, experience.episodes)))


def _normalised(episode: Episode) -> Episode:
    children: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(episode.spans, key=lambda span: (span.start_ns, span.sequence)):
        if span.parent_id and span.source in _FOREIGN:
            children[span.parent_id].append(span)
    spans = tuple(
        _translated(span, children.get(span.span_id, ())) if span.source in _FOREIGN else span
        for span in episode.spans
    )
    changed = any(new is not old for new, old in zip(spans, episode.spans, strict=True))
    return msgspec.structs.replace(episode, spans=spans) if changed else episode


def _translated(span: Span, children: Sequence[Span]) -> Span:
    found = [meaning for dialect in DIALECTS if (meaning := dialect(span, children))]
    added: dict[str, Json] = {}
    for meaning in found:
        for name, value in meaning.attributes.items():
            if name not in span.attributes and value not in (None, "", []):
                added.setdefault(name, value)
    operation, replaced = _operation(span, found)
    if replaced:
        added.setdefault(semconv.OPERATION, span.operation)
    agent = span.agent or next((meaning.agent for meaning in found if meaning.agent), None)
    error = span.error
    if span.status is SpanStatus.ERROR and not error:
        error = next((meaning.error for meaning in found if meaning.error), None)
    if not added and (operation, agent, error) == (span.operation, span.agent, span.error):
        return span
    return msgspec.structs.replace(
        span, operation=operation, agent=agent, error=error, attributes=span.attributes | added
    )


def _operation(span: Span, found: Sequence[Meaning]) -> tuple[str, bool]:
    """The operation, and whether it takes the place of one that the span has named."""
    told = next((meaning.operation for meaning in found if meaning.operation), None)
    if told is None or told == span.operation:
        return span.operation, False
    if span.operation == semconv.OPERATION_OTHER:
        return told, False
    return (told, True) if span.operation == "generate_content" else (span.operation, False)
