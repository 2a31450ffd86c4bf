"""Stage `join`: the spans of frameworks and of the gateway that tell of one call become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from agentlightning import semconv
from agentlightning.config import decode_params
from agentlightning.pipeline._begun import settled
from agentlightning.pipeline._join_chains import Calls, unique
from agentlightning.types import Episode, Experience, Json, Span, SpanSource, SpanStatus

WIRE_ATTRIBUTES = (
    semconv.INPUT_MESSAGES,
    semconv.OUTPUT_MESSAGES,
    semconv.TOOL_DEFINITIONS,
    semconv.REQUEST_TEMPERATURE,
    semconv.POLICY_VERSION,
    semconv.INCOMPLETE,
)
"""What is known best nearest to the model: by the gateway, which saw the bytes, else by an SDK's instrumentation."""


class JoinParams(msgspec.Struct, frozen=True, kw_only=True):
    """The stage has no parameters."""


class Join:
    """Joins the spans of one LLM call: name, agent and structure from the framework, tokens from the gateway.

    A gateway span belongs to the framework's call that it happened in, also through spans of an HTTP client, else to
    one with its `gen_ai.response.id`. Frameworks on top of each other that all report the call are joined too, with a
    gateway or without; the outermost gives its name. So is a call that another instrumentation tells of beside them,
    known by its response id. A call is joined once: of several below one framework span (retries of an SDK) the one
    with its response id, else the last without an error, is the call; the others stay.

    A span that was captured twice counts once. Calls of the gateway that stay by themselves are moved to the clock of
    the frameworks, as far as those that were joined tell how the two differ.
    """

    name = "join"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, JoinParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        return replace(experience, episodes=tuple(map(_joined, experience.episodes)))


def _joined(episode: Episode) -> Episode:
    spans = settled(unique(episode.spans))
    chains = Calls(spans).chains()
    if not chains and spans == episode.spans:
        return episode
    merged = {chain[-1].span_id: _merge(chain) for chain in chains}
    renamed = {span.span_id: chain[-1].span_id for chain in chains for span in chain[:-1]}
    offset_ns = _clock_offset_ns(chains)
    joined = tuple(
        _redirect(merged.get(span.span_id) or _moved(span, offset_ns), renamed)
        for span in spans
        if span.span_id not in renamed
    )
    return msgspec.structs.replace(episode, spans=joined)


def _merge(chain: Sequence[Span]) -> Span:
    innermost, outermost = chain[0], chain[-1]
    attributes: dict[str, Json] = {}
    for span in chain:
        attributes |= span.attributes
    for key in WIRE_ATTRIBUTES:
        if known := [span.attributes[key] for span in chain if key in span.attributes]:
            attributes[key] = known[0]
    return msgspec.structs.replace(
        outermost,
        operation=innermost.operation,
        agent=next((span.agent for span in reversed(chain) if span.agent), None),
        status=innermost.status,  # whether there is an answer to learn from; the framework may have failed later
        error=next((span.error for span in chain if span.error), None),
        attributes=attributes,
        tokens=next((span.tokens for span in chain if span.tokens), ()),
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


def _clock_offset_ns(chains: Iterable[Sequence[Span]]) -> int:
    """What the gateway's clock lacks to the frameworks', in nanoseconds; 0 if nothing shows a difference.

    A call begins in its framework before it does in the gateway, and ends there after it. Those that were joined so
    give bounds of the offset; if 0 is not within them, their middle is taken. Bounds that contradict each other (two
    gateways, say) say nothing.
    """
    least, most = [], []
    for chain in chains:
        served, framed = chain[0], chain[-1]
        if served.source is SpanSource.GATEWAY and framed.source is not SpanSource.GATEWAY:
            least.append(framed.start_ns - served.start_ns)
            if served.status is not SpanStatus.ERROR and semconv.CANCELLED not in served.attributes:
                most.append(framed.end_ns - served.end_ns)
    if not least or not most:
        return 0
    low, high = max(least), min(most)
    return 0 if low <= 0 <= high or low > high else (low + high) // 2


def _moved(span: Span, offset_ns: int) -> Span:
    """A gateway span on the frameworks' clock; any other one as it is."""
    if offset_ns == 0 or span.source is not SpanSource.GATEWAY:
        return span
    return msgspec.structs.replace(span, start_ns=span.start_ns + offset_ns, end_ns=span.end_ns + offset_ns)
