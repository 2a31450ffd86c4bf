"""What the parts of the store's contract share: how the store is made, and short ways to fill it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agentlightning.store import Limits, Store
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.types import (
    Failure,
    FailureClass,
    Json,
    Lease,
    RolloutConfig,
    RolloutRequest,
    Span,
    SpanSource,
    reward_span,
)


class StoreCase:
    """Makes the store that is tested."""

    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        """Makes an empty store that is not open yet and judges time by `clock`.

        Args:
            folder: An empty folder that it may use.
            clock: Its only clock for leases, deadlines and timestamps.
        """
        raise NotImplementedError("a store contract needs `make_store(self, folder, *, clock)`")

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        """The same with limits that are small; a backend whose limits cannot be set leaves this out."""
        del folder, clock, limits
        pytest.skip("the limits of this store cannot be set")

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The store's clock."""
        return ManualClock()

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
        """The store, open."""
        async with self.make_store(tmp_path, clock=clock) as store:
            yield store


def requests(count: int, **fields: object) -> list[RolloutRequest]:
    """Requests whose tasks count from 0."""
    return [RolloutRequest(task=task, **fields) for task in range(count)]  # type: ignore[arg-type]


def retrying(*kinds: FailureClass, max_attempts: int = 2, timeout_s: float | None = None) -> RolloutConfig:
    """A config that tries again after failures of these kinds."""
    return RolloutConfig(timeout_s=timeout_s, max_attempts=max_attempts, retry_on=kinds)


def failure(kind: FailureClass = FailureClass.AGENT_ERROR) -> Failure:
    """A failure of a kind."""
    return Failure(kind=kind, message="it broke")


async def leased(store: Store, *, ttl_s: float = 30.0, request: RolloutRequest | None = None) -> Lease:
    """Enqueues one rollout, which is tried once unless the request says otherwise, and leases it."""
    await store.rollouts.enqueue(
        [request or RolloutRequest(task="work", config=RolloutConfig(max_attempts=1))]
    )
    (lease,) = await store.rollouts.lease("worker", ttl_s=ttl_s)
    return lease


async def finished(store: Store, *, request: RolloutRequest | None = None, output: Json = None) -> Lease:
    """Enqueues one rollout and runs it to success."""
    lease = await leased(store, request=request)
    await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output=output)
    return lease


def span(
    lease: Lease, number: int, *, operation: str = "chat", agent: str | None = None, **attributes: Json
) -> Span:
    """A span of an attempt."""
    return Span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id=f"{number:016x}",
        trace_id="0" * 31 + "1",
        name=f"span {number}",
        operation=operation,
        source=SpanSource.GATEWAY,
        start_ns=number,
        end_ns=number + 1,
        agent=agent,
        attributes=dict(attributes),
    )


def reward(lease: Lease, number: int, *, value: float, dimension: str = "reward") -> Span:
    """A reward span of an attempt."""
    return reward_span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id=f"{number:016x}",
        trace_id="0" * 31 + "1",
        time_ns=number,
        value=value,
        dimension=dimension,
    )
