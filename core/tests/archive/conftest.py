"""What the tests of archives share: stores that have something of everything, and all that a store says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from agentlightning.store import MemoryStore, RolloutQuery, SpanQuery, Store
from agentlightning.testing import ManualClock
from agentlightning.types import (
    Failure,
    FailureClass,
    Lease,
    MetricPoint,
    PromptTemplate,
    RolloutConfig,
    RolloutRequest,
    Run,
    RunEvent,
    RunKind,
    RunStatus,
    Span,
    SpanSource,
    SpanStatus,
    TokenRecord,
    reward_span,
)


@dataclass(frozen=True)
class Everything:
    """All that a store says through its public methods."""

    rollouts: object
    attempts: object
    spans: object
    rewards: object
    resource_sets: object
    runs: object
    metrics: object
    events: object


async def everything(store: Store) -> Everything:
    rollouts = (await store.rollouts.list(RolloutQuery(), limit=10_000)).items
    ids = [rollout.id for rollout in rollouts]
    spans = (await store.spans.page(SpanQuery(include_late=True), limit=100_000)).items
    runs = await store.runs.list(limit=1_000)
    return Everything(
        rollouts=rollouts,
        attempts=await store.rollouts.attempts(ids),
        spans=sorted(spans, key=lambda span: (span.attempt_id, span.sequence)),
        rewards=await store.spans.rewards(ids),
        resource_sets=await store.resources.list(limit=1_000),
        runs=runs,
        metrics={run.id: await store.runs.metrics(run.id) for run in runs},
        events={run.id: await store.runs.events(run.id) for run in runs},
    )


def span(lease: Lease, number: int, **fields: object) -> Span:
    defaults: dict[str, object] = {
        "rollout_id": lease.rollout.id,
        "attempt_id": lease.attempt.id,
        "span_id": f"{number:016x}",
        "trace_id": f"{lease.attempt.token:032x}",
        "name": f"span {number}",
        "operation": "chat",
        "source": SpanSource.GATEWAY,
        "start_ns": number,
        "end_ns": number + 1,
    }
    return Span(**(defaults | fields))  # type: ignore[arg-type]


def reward(lease: Lease, number: int, value: float) -> Span:
    return reward_span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id=f"{number:016x}",
        trace_id=f"{lease.attempt.token:032x}",
        time_ns=number,
        value=value,
    )


async def leased(store: Store, request: RolloutRequest) -> Lease:
    await store.rollouts.enqueue([request])
    (lease,) = await store.rollouts.lease("worker", ttl_s=1e6)
    return lease


async def filled(store: Store) -> None:
    """Two runs, of each kind of rollout one, spans with tokens, late ones, a retry, resources, metrics, events."""
    for run_id in ("first", "second"):
        run = Run(
            id=run_id,
            kind=RunKind.TRAIN,
            algorithm="apo",
            status=RunStatus.RUNNING,
            config={"lr": 1e-5, "stages": ["a", {"b": None}]},
            seed=2**64 - 1,
            created_at=1.0,
            updated_at=2.0,
            environment={"python": "3"},
        )
        await store.runs.create(run)
        await store.runs.log(
            run_id,
            points=[
                MetricPoint(name="loss", step=step, value=step / 3, time=float(step)) for step in range(3)
            ],
            events=[
                RunEvent(kind=kind, message="it's", time=1.5, data={"x": [1, 2.5]}) for kind in ("a", "b")
            ],
        )
    await store.runs.update("first", status=RunStatus.SUCCEEDED, summary={"best": 0.1})
    await store.runs.update("second", status=RunStatus.FAILED, error="out of luck")
    first = await store.resources.publish({"prompt": PromptTemplate(template="hi {name}")}, run_id="first")
    good = await leased(
        store,
        RolloutRequest(
            task={"q": "1+1"}, id="good", run_id="first", group="g", seed=2**63, metadata={"a": "b"}
        ),
    )
    tokens = (
        TokenRecord.pack([1, 2, 3], [4, 5], [-0.1, -float(2**-126)], version=7, finish_reason="stop"),
        TokenRecord.pack([1, 2, 3], [6], [-0.5], version=7),
        TokenRecord(incomplete="nobody sent ids"),
    )
    await store.spans.append(
        [
            span(good, 1, attributes={"n": None, "deep": [{"x": -0.0}], "text": "🙂\x00"}, tokens=tokens),
            span(good, 2, tokens=tokens[:1], agent="writer", parent_id=f"{1:016x}"),
            span(good, 3, status=SpanStatus.ERROR, error="oops", attributes={"large": "x" * 20_000}),
            reward(good, 4, 0.25),
        ]
    )
    await store.rollouts.finish(good.attempt.id, token=good.attempt.token, output={"answer": [2, None]})
    await store.spans.append([span(good, 5)])  # late
    await store.resources.publish(
        {"prompt": PromptTemplate(template="hello")}, parent=first.id, run_id="second", step=3
    )
    retry = RolloutConfig(timeout_s=60.0, max_attempts=2, retry_on=(FailureClass.AGENT_ERROR,))
    bad = await leased(store, RolloutRequest(task="t", id="bad", run_id="second", config=retry, priority=3))
    broken = Failure(kind=FailureClass.AGENT_ERROR, message="broke", detail="line\n2")
    await store.spans.append([span(bad, 1)])
    await store.rollouts.finish(bad.attempt.id, token=bad.attempt.token, failure=broken)
    (again,) = await store.rollouts.lease("other", ttl_s=1e6)
    await store.spans.append([span(again, 1), reward(again, 2, -1.0)])
    await store.rollouts.finish(again.attempt.id, token=again.attempt.token, failure=broken)
    await store.rollouts.enqueue([RolloutRequest(task=None, id="dropped")])
    await store.rollouts.cancel(["dropped"], reason="not needed")
    running = await leased(store, RolloutRequest(task=[1], id="running", run_id="second"))
    await store.spans.append([span(running, 1)])
    await store.rollouts.enqueue([RolloutRequest(task=0.5, id="queued")])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def store(clock: ManualClock) -> AsyncIterator[Store]:
    """A store that has something of everything."""
    async with MemoryStore(clock=clock) as opened:
        await filled(opened)
        yield opened


@pytest_asyncio.fixture
async def other(clock: ManualClock) -> AsyncIterator[Store]:
    """An empty store."""
    async with MemoryStore(clock=clock) as opened:
        yield opened


@pytest.fixture
def said() -> Callable[[Store], object]:
    """All that a store says."""
    return everything


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Where the archive goes."""
    return tmp_path / "archive"


@pytest.fixture
def fill() -> Callable[[Store], object]:
    """Puts something of everything into a store."""
    return filled
