"""What a key of limited scope may append: an agent only to its own attempt, a grader only rewards."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentlightning import semconv
from agentlightning.credentials import Credential, Scope
from agentlightning.errors import Forbidden
from agentlightning.types import RewardSource, Span, SpanSource


def scoped_spans(spans: Sequence[Span], credential: Credential | None) -> Sequence[Span]:
    """The spans as a credential may append them.

    An agent's spans never claim to come from the gateway, the runner or a grader, and bring no tokens; a grader's
    rewards are a grader's. Spans of runners and trainers stay as they are.

    Raises:
        Forbidden: A span is of another attempt, or no reward.
    """
    if credential is None or credential.scope not in {Scope.AGENT, Scope.REWARD}:
        return spans
    limit = _of_agent if credential.scope is Scope.AGENT else _of_grader
    return [limit(span, credential) for span in spans]


def _of_agent(span: Span, credential: Credential) -> Span:
    if credential.attempt_id is None or (span.attempt_id, span.rollout_id) != (
        credential.attempt_id,
        credential.rollout_id,
    ):
        raise Forbidden(
            f"span {span.span_id!r} is of attempt {span.attempt_id!r}; an agent's key is for its own attempt only"
        )
    source = span.source if span.source in {SpanSource.EMIT, SpanSource.ADAPTER} else SpanSource.OTLP
    attributes = span.attributes
    if span.operation == semconv.OPERATION_REWARD:
        attributes = {**attributes, semconv.REWARD_SOURCE: RewardSource.AGENT.value}
    return msgspec.structs.replace(span, source=source, tokens=(), attributes=attributes)


def _of_grader(span: Span, credential: Credential) -> Span:
    if span.operation != semconv.OPERATION_REWARD:
        raise Forbidden(
            f"span {span.span_id!r} is a {span.operation!r}; a key of scope {credential.scope.value!r} appends"
            f" {semconv.OPERATION_REWARD!r} only"
        )
    if credential.attempt_id not in {None, span.attempt_id}:
        raise Forbidden(
            f"span {span.span_id!r} is of attempt {span.attempt_id!r}; this key is for another one"
        )
    attributes = {**span.attributes, semconv.REWARD_SOURCE: RewardSource.GRADER.value}
    return msgspec.structs.replace(span, source=SpanSource.RUNNER, tokens=(), attributes=attributes)
