"""What is believed of telemetry, by the scope of the key that it came with."""

from __future__ import annotations

from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.capture.otlp import Decoded, Reading, Rejection
from agentlightning.credentials import Credential, Scope
from agentlightning.types import RewardSource, Span
from lightning_plugin_server._refusal import Refusal

_TRUSTED: Final = Reading(items=100_000, item_bytes=16 * 2**20, attributes=1000, text=2**22, text_depth=128)
_GRADER: Final = msgspec.structs.replace(_TRUSTED, trusted=False, reward_source=RewardSource.GRADER)
_AGENT: Final = msgspec.structs.replace(_TRUSTED, trusted=False, reward_source=RewardSource.AGENT)
_NAMELESS: Final = (
    f"it names no attempt: send it with the attempt's own key, or set OTEL_RESOURCE_ATTRIBUTES to"
    f" {semconv.ROLLOUT_ID}=…,{semconv.ATTEMPT_ID}=…"
)
_NO_REWARD: Final = (
    f"a key of scope {Scope.REWARD.value!r} sends spans of the operation {semconv.OPERATION_REWARD!r} only"
)


def reading_for(credential: Credential | None) -> Reading:
    """How telemetry of a caller is read.

    An agent's is of its own attempt, whatever it says; its rewards are an agent's, its tokens are not believed. A
    grader's rewards are a grader's.

    Raises:
        Refusal: An agent's key that names no attempt.
    """
    if credential is None or credential.scope not in {Scope.AGENT, Scope.REWARD}:
        return _TRUSTED
    if credential.scope is Scope.REWARD:
        return _GRADER
    if not credential.attempt_id or not credential.rollout_id:
        raise Refusal(403, "this agent's key names no attempt; have one made for the rollout and the attempt")
    return msgspec.structs.replace(_AGENT, rollout_id=credential.rollout_id, attempt_id=credential.attempt_id)


def admitted(decoded: Decoded, credential: Credential | None) -> tuple[list[Span], list[Rejection]]:
    """The spans that may be stored, and why others may not."""
    rewards_only = credential is not None and credential.scope is Scope.REWARD
    spans: list[Span] = []
    rejected = list(decoded.rejected)
    for span in decoded.spans:
        if rewards_only and span.operation != semconv.OPERATION_REWARD:
            rejected.append(Rejection(span_id=span.span_id, reason=_NO_REWARD))
        elif not span.rollout_id or not span.attempt_id:
            rejected.append(Rejection(span_id=span.span_id, reason=_NAMELESS))
        else:
            spans.append(span)
    return spans, rejected
