"""What spans say of agents and of their calls, joined with those of a gateway."""

# ruff: noqa: S101  (a contract kit asserts)
from __future__ import annotations

from collections.abc import Sequence

from agentlightning import semconv
from agentlightning.pipeline._join import Join
from agentlightning.pipeline._transitions import Transitions
from agentlightning.testing._episode_builder import EpisodeBuilder
from agentlightning.testing._scripted_wire import ScriptedRequest
from agentlightning.types import Experience, Span, SpanSource, TokenRecord, Transition


def agent_of(span: Span, spans: Sequence[Span]) -> str:
    """Name of the agent that a span is below."""
    names = (
        one.agent or one.attributes.get(semconv.AGENT_NAME)
        for one in enclosing(span, spans)
        if one.operation == semconv.OPERATION_AGENT
    )
    return next((str(name) for name in names if name), "")


def transitions_of(spans: Sequence[Span], requests: Sequence[ScriptedRequest]) -> Sequence[Transition]:
    """What the pipeline makes of an adapter's spans and of those that a gateway would have for these requests."""
    builder = EpisodeBuilder()
    wire = [
        _gateway_span(spans[0], request.headers["traceparent"], number)
        for number, request in enumerate(requests)
    ]
    episode = builder.build()
    both = sorted((*spans, *wire), key=lambda span: span.start_ns)
    fields = {name: getattr(episode, name) for name in ("rollout", "attempt")}
    experience = Experience(episodes=(type(episode)(**fields, spans=tuple(both)),))
    return Transitions({})(Join({})(experience)).trajectories[0].transitions


def _gateway_span(near: Span, traceparent: str, number: int) -> Span:
    _, trace_id, parent_id, _ = traceparent.split("-")
    return Span(
        rollout_id=near.rollout_id,
        attempt_id=near.attempt_id,
        span_id=f"{number + 1:016x}",
        trace_id=trace_id,
        parent_id=parent_id,
        name="chat",
        operation=semconv.OPERATION_CHAT,
        source=SpanSource.GATEWAY,
        start_ns=number,
        end_ns=number,
        tokens=(TokenRecord.pack([1], [number], [-0.5], version=0, finish_reason="stop"),),
    )


def request_number(transition: Transition) -> int:
    assert transition.tokens is not None
    return int.from_bytes(transition.tokens.response[:4], "little")


def enclosing(span: Span, spans: Sequence[Span]) -> list[Span]:
    """What a span happened in, inside out, beginning with itself."""
    by_id = {one.span_id: one for one in spans}
    found = [span]
    while (parent := by_id.get(found[-1].parent_id or "")) is not None:
        found.append(parent)
    return found


def inside_agent(span: Span, spans: Sequence[Span]) -> bool:
    return any(one.operation == semconv.OPERATION_AGENT for one in enclosing(span, spans)[1:])
