"""Builds episodes span by span, as capture would have left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentlightning import semconv
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Episode,
    Failure,
    FailureClass,
    Json,
    Mode,
    RewardSource,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Span,
    SpanSource,
    SpanStatus,
    TokenRecord,
    reward_span,
)


@dataclass(kw_only=True)
class EpisodeBuilder:
    """One attempt in the making. Each method adds a span and returns its id; time passes by one nanosecond a span.

    Attributes:
        failure: Class of failure of the attempt; None if it succeeded.
    """

    rollout_id: str = "rollout"
    group: str | None = None
    sample: int = 0
    task: Json = None
    resources: str | None = None
    failure: FailureClass | None = None
    _spans: list[Span] = field(default_factory=list)

    @property
    def attempt_id(self) -> str:
        """Id of the attempt."""
        return f"{self.rollout_id}-1"

    def span(
        self,
        operation: str,
        *,
        name: str | None = None,
        source: SpanSource = SpanSource.EMIT,
        parent: str | None = None,
        agent: str | None = None,
        status: SpanStatus = SpanStatus.OK,
        attributes: dict[str, Json] | None = None,
        tokens: tuple[TokenRecord, ...] = (),
        start_ns: int | None = None,
    ) -> str:
        """Adds any span."""
        number = len(self._spans) + 1
        start = number if start_ns is None else start_ns
        span = Span(
            rollout_id=self.rollout_id,
            attempt_id=self.attempt_id,
            span_id=f"{number:016x}",
            trace_id="0" * 31 + "1",
            parent_id=parent,
            name=name or operation,
            operation=operation,
            source=source,
            agent=agent,
            start_ns=start,
            end_ns=start,
            status=status,
            attributes=attributes or {},
            tokens=tokens,
            sequence=number,
        )
        self._spans.append(span)
        return span.span_id

    def call(
        self,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        *,
        version: int = 0,
        agent: str | None = None,
        parent: str | None = None,
        response_id: str | None = None,
        incomplete: str = "",
        status: SpanStatus = SpanStatus.OK,
        logprobs: Sequence[float] | None = None,
    ) -> str:
        """Adds an LLM call as the gateway records it; without `logprobs` each sampled token has -0.5."""
        logprobs = [-0.5] * len(response_ids) if logprobs is None else logprobs
        record = TokenRecord.pack(prompt_ids, response_ids, logprobs, version=version, finish_reason="stop")
        if incomplete:
            record = TokenRecord(version=version, incomplete=incomplete)
        attributes: dict[str, Json] = {
            semconv.INPUT_MESSAGES: [{"role": "user", "content": " ".join(map(str, prompt_ids))}],
            semconv.OUTPUT_MESSAGES: [{"role": "assistant", "content": " ".join(map(str, response_ids))}],
            semconv.RESPONSE_MODEL: "model",
        }
        if response_id is not None:
            attributes[semconv.RESPONSE_ID] = response_id
        return self.span(
            semconv.OPERATION_CHAT,
            source=SpanSource.GATEWAY,
            agent=agent,
            parent=parent,
            status=status,
            attributes=attributes,
            tokens=() if status is SpanStatus.ERROR else (record,),
        )

    def reward(
        self,
        value: float,
        *,
        dimension: str = "reward",
        target: str | None = None,
        source: RewardSource = RewardSource.GRADER,
    ) -> str:
        """Adds a reward."""
        number = len(self._spans) + 1
        span = reward_span(
            rollout_id=self.rollout_id,
            attempt_id=self.attempt_id,
            span_id=f"{number:016x}",
            trace_id="0" * 31 + "1",
            time_ns=number,
            value=value,
            dimension=dimension,
            target=target,
            source=source,
        )
        self._spans.append(span)
        return span.span_id

    def rollout(self) -> Rollout:
        """The finished rollout."""
        return Rollout(
            id=self.rollout_id,
            task=self.task,
            mode=Mode.TRAIN,
            run_id=None,
            group=self.group,
            sample=self.sample,
            seed=None,
            resources=self.resources,
            config=RolloutConfig(),
            priority=0,
            metadata={},
            status=RolloutStatus.FAILED if self.failure else RolloutStatus.SUCCEEDED,
            attempts=1,
            created_at=0.0,
            finished_at=0.0,
        )

    def build(self) -> Episode:
        """The finished attempt with all its spans."""
        attempt = Attempt(
            id=self.attempt_id,
            rollout_id=self.rollout_id,
            sequence=1,
            worker="builder",
            token=1,
            status=AttemptStatus.FAILED if self.failure else AttemptStatus.SUCCEEDED,
            leased_at=0.0,
            expires_at=0.0,
            finished_at=0.0,
            failure=Failure(kind=self.failure, message="as told") if self.failure else None,
        )
        return Episode(rollout=self.rollout(), attempt=attempt, spans=tuple(self._spans))
