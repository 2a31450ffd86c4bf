"""What writers ask of the store, made from a key alone: whoever knows the key can ask the very same again."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from agentlightning.types import (
    Failure,
    FailureClass,
    MetricPoint,
    PromptTemplate,
    ResourceState,
    RolloutConfig,
    RolloutRequest,
    Run,
    RunEvent,
    RunKind,
    RunStatus,
    Span,
    SpanSource,
    reward_span,
)

if TYPE_CHECKING:
    from agentlightning.store import Store

TTL_S = 2.0
"""Of every lease, in seconds."""
BATCH = 32
_CONFIG = RolloutConfig(max_attempts=6, retry_on=(FailureClass.LOST, FailureClass.INFRASTRUCTURE))
_TEXT = "what the model said, more or less; " * 4


async def enqueue(store: Store, key: str, count: int) -> Any:
    """Adds rollouts whose tasks name the key; they get their ids from the store."""
    requests = [RolloutRequest(task=[key, number], group=key, config=_CONFIG) for number in range(count)]
    return await store.rollouts.enqueue(requests, idempotency_key=key)


async def lease(store: Store, key: str, limit: int) -> Any:
    """Leases under a name that only this call has."""
    return await store.rollouts.lease(key, limit=limit, ttl_s=TTL_S, idempotency_key=f"lease {key}")


async def append(store: Store, attempt_id: str, batch: int, token: int) -> Any:
    """Adds a batch of spans; the first of the first one is a reward."""
    return await store.spans.append([_span(attempt_id, span_id) for span_id in span_ids(batch)], token=token)


async def finish(store: Store, attempt_id: str, token: int, succeeds: bool) -> Any:
    """Ends an attempt."""
    if succeeds:
        return await store.rollouts.finish(attempt_id, token=token, output=attempt_id)
    failure = Failure(kind=FailureClass.INFRASTRUCTURE, message=attempt_id)
    return await store.rollouts.finish(attempt_id, token=token, failure=failure)


async def create(store: Store, run_id: str) -> Any:
    """Adds a run."""
    return await store.runs.create(
        Run(
            id=run_id,
            kind=RunKind.OBSERVE,
            algorithm="none",
            status=RunStatus.RUNNING,
            config={},
            seed=0,
            created_at=0.0,
            updated_at=0.0,
        )
    )


async def log(store: Store, key: str, run_id: str) -> Any:
    """Adds one metric point and one event that name the key."""
    point = MetricPoint(name=key, step=0, value=value_of(key), time=0.0)
    await store.runs.log(
        run_id,
        points=[point],
        events=[RunEvent(kind="round", message=key, time=0.0)],
        idempotency_key=f"log {key}",
    )


async def publish(store: Store, key: str) -> Any:
    """Adds a resource set that names the key."""
    return await store.resources.publish(
        {"prompt": PromptTemplate(template=key)},
        state=ResourceState.CANDIDATE,
        idempotency_key=f"publish {key}",
    )


def span_ids(batch: int) -> list[str]:
    """The ids of a batch's spans."""
    return [f"{batch:08x}{number:08x}" for number in range(BATCH)]


def value_of(name: str) -> float:
    """A number that is easy to get wrong."""
    return float(zlib.crc32(name.encode()) % 1000)


def _span(attempt_id: str, span_id: str) -> Span:
    rollout_id = attempt_id.rpartition(".")[0]
    if span_id == "0" * 16:
        return reward_span(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            span_id=span_id,
            trace_id="0" * 32,
            time_ns=1,
            value=value_of(attempt_id),
        )
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        span_id=span_id,
        trace_id="0" * 32,
        name="span",
        operation="chat",
        source=SpanSource.EMIT,
        start_ns=1,
        end_ns=2,
        attributes={"text": _TEXT},
    )
