"""A worker that slept past its lease is refused in everything, and what it still saw is kept as late."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentlightning.cli._stores import store_at
from agentlightning.plugins import load_plugins
from agentlightning.store import SpanQuery
from agentlightning.types import AttemptStatus, FailureClass, RolloutConfig, RolloutRequest, RolloutStatus
from faults import requests
from faults.services import SERVICES, Service, missing
from faults.zombie import Said, Zombie


@pytest.fixture(params=["sqlite", "http", "postgresql"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    if reason := missing(request.param):
        pytest.skip(reason)
    with SERVICES[request.param]() as service:
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        yield service


async def test_a_zombie_is_refused_on_every_backend(service: Service) -> None:
    config = RolloutConfig(max_attempts=2, retry_on=(FailureClass.LOST,))
    async with store_at(service.url, load_plugins()) as store:
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=0, config=config)])
        with Zombie(service) as zombie:
            await zombie.stop(store)
            (lease,) = await store.rollouts.lease("successor", ttl_s=60.0, wait_s=30.0)
            assert (lease.rollout.id, lease.attempt.sequence) == (rollout.id, 2)
            await requests.append(store, lease.attempt.id, 0, lease.attempt.token)
            done = await requests.finish(store, lease.attempt.id, lease.attempt.token, succeeds=True)
            assert await zombie.wake() == Said("LeaseLost", requests.BATCH, "LeaseLost")
        assert await store.rollouts.get(rollout.id) == done
        assert (done.status, done.output) == (RolloutStatus.SUCCEEDED, lease.attempt.id)
        first, _ = await store.rollouts.attempts([rollout.id])
        assert first.status is AttemptStatus.LOST
        assert await store.spans.count(SpanQuery(attempt_ids=(first.id,))) == 0
        assert (
            await store.spans.count(SpanQuery(attempt_ids=(first.id,), include_late=True)) == requests.BATCH
        )
