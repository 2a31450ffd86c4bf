"""A stream whose gateway died is a call that cannot be trained; any other leaves no trace of its mark."""

from __future__ import annotations

from agentlightning import semconv
from agentlightning.pipeline._join import Join
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Episode,
    Experience,
    Mode,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Span,
    SpanSource,
    SpanStatus,
    TokenRecord,
)


def span(span_id: str, *, begun: str = "", sequence: int = 0, parent_id: str | None = None) -> Span:
    return Span(
        rollout_id="r",
        attempt_id="r.1",
        span_id=span_id,
        parent_id=parent_id,
        trace_id="0" * 31 + "1",
        name="m",
        operation=semconv.OPERATION_BEGUN if begun else semconv.OPERATION_CHAT,
        source=SpanSource.GATEWAY,
        sequence=sequence,
        start_ns=sequence,
        end_ns=sequence + 1,
        status=SpanStatus.OK,
        attributes={semconv.BEGUN_CALL: begun, semconv.REQUEST_MODEL: "m"} if begun else {},
        tokens=() if begun else (TokenRecord.pack([1], [2], [-0.5], version=0),),
    )


def joined(*spans: Span) -> tuple[Span, ...]:
    rollout = Rollout(
        id="r",
        task=None,
        mode=Mode.TRAIN,
        run_id=None,
        group=None,
        sample=0,
        seed=None,
        resources=None,
        config=RolloutConfig(),
        priority=0,
        metadata={},
        status=RolloutStatus.SUCCEEDED,
        attempts=1,
        created_at=0.0,
    )
    attempt = Attempt(
        id="r.1",
        rollout_id="r",
        sequence=1,
        worker="w",
        token=1,
        status=AttemptStatus.SUCCEEDED,
        leased_at=0.0,
        expires_at=1.0,
    )
    (episode,) = Join({})(
        Experience(episodes=(Episode(rollout=rollout, attempt=attempt, spans=spans),))
    ).episodes
    return episode.spans


def test_a_call_that_was_recorded_leaves_no_mark() -> None:
    assert [one.span_id for one in joined(span("mark", begun="c"), span("c", sequence=1))] == ["c"]


def test_a_call_whose_record_never_came_is_incomplete_in_its_place() -> None:
    found = joined(span("a"), span("mark", begun="b", sequence=1, parent_id="agent"), span("c", sequence=2))
    assert [one.span_id for one in found] == ["a", "b", "c"]
    lost = found[1]
    assert (lost.operation, lost.status, lost.parent_id) == ("chat", SpanStatus.ERROR, "agent")
    assert lost.tokens[0].incomplete == lost.attributes[semconv.INCOMPLETE] == lost.error
    assert lost.attributes[semconv.REQUEST_MODEL] == "m"
