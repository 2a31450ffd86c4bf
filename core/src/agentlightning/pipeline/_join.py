"""Stage `join`: the span of a framework and the span of the gateway become one call."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from agentlightning import semconv
from agentlightning.config import decode_params
from agentlightning.types import Episode, Experience, Json, Span, SpanSource, SpanStatus

WIRE_ATTRIBUTES = (
    semconv.INPUT_MESSAGES,
    semconv.OUTPUT_MESSAGES,
    semconv.TOOL_DEFINITIONS,
    semconv.POLICY_VERSION,
    semconv.INCOMPLETE,
)
"""What the gateway knows better than a framework: it saw the bytes."""


class JoinParams(msgspec.Struct, frozen=True, kw_only=True):
    """The stage has no parameters."""


class Join:
    """Joins the spans of one LLM call: name, agent and structure from the framework, tokens from the gateway.

    A gateway span belongs to the framework's call that it is a child of, else to one with its
    `gen_ai.response.id`. Frameworks on top of each other that both report the call are joined too; the outermost
    gives its name. A call is joined once: of several gateway spans below one framework span (retries of an SDK) the
    one with its response id, else the last without an error, is the call; the others stay.
    """

    name = "join"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, JoinParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        return replace(experience, episodes=tuple(map(_joined, experience.episodes)))


def _joined(episode: Episode) -> Episode:
    chains = _chains(episode.spans)
    if not chains:
        return episode
    merged = {chain[-1].span_id: _merge(chain) for chain in chains}
    renamed = {span.span_id: chain[-1].span_id for chain in chains for span in chain[:-1]}
    spans = tuple(
        _redirect(merged.get(span.span_id, span), renamed)
        for span in episode.spans
        if span.span_id not in renamed
    )
    return msgspec.structs.replace(episode, spans=spans)


def _chains(spans: Iterable[Span]) -> list[list[Span]]:
    """The spans of each joined call: the gateway's first, the outermost framework's last."""
    calls = [span for span in spans if span.operation == semconv.OPERATION_CHAT]
    outer = {span.span_id: span for span in calls if span.source is not SpanSource.GATEWAY}
    inner = [span for span in calls if span.source is SpanSource.GATEWAY]
    free = dict(outer)
    # what fits best chooses first: same response id, then no error, then the latest
    inner.sort(
        key=lambda span: (_id(span) != _id(outer.get(span.parent_id or "")), _failed(span), -span.start_ns)
    )
    chains = {span.span_id: _climb(span, free) for span in inner}
    by_response: dict[str, deque[Span]] = defaultdict(deque)
    for span in sorted(free.values(), key=lambda span: (span.start_ns, span.sequence)):
        by_response[_id(span)].append(span)
    for span in sorted(inner, key=lambda span: (span.start_ns, span.sequence)):
        waiting = by_response.get(_id(span) or "?")
        while len(chains[span.span_id]) == 1 and waiting:
            partner = waiting.popleft()
            if free.pop(partner.span_id, None):
                chains[span.span_id] = [span, partner, *_climb(partner, free)[1:]]
    return [chain for chain in chains.values() if len(chain) > 1]


def _climb(span: Span, free: dict[str, Span]) -> list[Span]:
    """The span and the framework calls around it, which are then taken."""
    chain = [span]
    while parent := free.pop(chain[-1].parent_id or "", None):
        chain.append(parent)
    return chain


def _merge(chain: list[Span]) -> Span:
    gateway, outermost = chain[0], chain[-1]
    attributes: dict[str, Json] = {}
    for span in chain:
        attributes |= span.attributes
    attributes |= {key: gateway.attributes[key] for key in WIRE_ATTRIBUTES if key in gateway.attributes}
    return msgspec.structs.replace(
        outermost,
        agent=next((span.agent for span in reversed(chain) if span.agent), None),
        status=gateway.status,  # whether there is an answer to learn from; the framework may have failed later
        error=next((span.error for span in chain if span.error), None),
        attributes=attributes,
        tokens=gateway.tokens,
    )


def _redirect(span: Span, renamed: Mapping[str, str]) -> Span:
    """Points parents and rewards at the span that a call has become."""
    parent_id = renamed.get(span.parent_id or "", span.parent_id)
    if parent_id not in {span.parent_id, span.span_id}:
        span = msgspec.structs.replace(span, parent_id=parent_id)
    target = span.attributes.get(semconv.REWARD_TARGET)
    if isinstance(target, str) and target in renamed:
        attributes = span.attributes | {semconv.REWARD_TARGET: renamed[target]}
        span = msgspec.structs.replace(span, attributes=attributes)
    return span


def _id(span: Span | None) -> str:
    return str(span.attributes.get(semconv.RESPONSE_ID) or "") if span else ""


def _failed(span: Span) -> bool:
    return span.status is SpanStatus.ERROR
