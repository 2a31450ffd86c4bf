"""Runners under trouble: cancellation, lost leases, a store that fails, resources and sync agents."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from agentlightning._execution import Execution
from agentlightning.capture import Exporter, current_rollout, install_tracing
from agentlightning.errors import StoreUnavailable
from agentlightning.observer import Observers
from agentlightning.runner import Grader, InProcessLauncher, Runner, RunnerConfig
from agentlightning.store import SpanQuery, Store, open_store
from agentlightning.types import (
    FailureClass,
    Json,
    Resource,
    RewardSource,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
)


async def no_resources(_: str | None) -> Mapping[str, Resource]:
    return {}


@asynccontextmanager
async def running(
    store: Store, agent: object, *, graders: tuple[Grader, ...] = (), ttl_s: float = 30.0
) -> AsyncIterator[Runner]:
    install_tracing()
    async with Exporter(store.spans) as exporter:
        runner = Runner(
            store,
            execution=Execution(agent, adapters=[], concurrency=4),
            exporter=exporter,
            gateway=None,
            graders=graders,
            resources=no_resources,
            observers=Observers(),
            config=RunnerConfig(concurrency=4, lease_ttl_s=ttl_s),
        )
        task = asyncio.create_task(InProcessLauncher().run(runner, run_id=None))
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


async def test_a_cancelled_rollout_kills_its_agent(store: Store) -> None:
    started, killed = asyncio.Event(), asyncio.Event()

    async def endless(task: Json) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            killed.set()
            raise

    async with running(store, endless, ttl_s=0.3):
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        await started.wait()
        await store.rollouts.cancel([rollout.id], reason="enough")
        async with asyncio.timeout(5):
            await killed.wait()
        assert (await store.rollouts.get(rollout.id)).status is RolloutStatus.CANCELLED


async def test_a_sync_agent_runs_in_a_thread_inside_its_rollout(store: Store) -> None:
    seen: list[tuple[bool, str]] = []

    def agent(task: Json) -> float:
        context = current_rollout()
        assert context is not None
        seen.append((threading.current_thread() is threading.main_thread(), context.rollout_id))
        return 1.0

    async with running(store, agent):
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.status is RolloutStatus.SUCCEEDED
    assert seen == [(False, rollout.id)]
    (reward,) = await store.spans.rewards([rollout.id])
    assert (reward.value, reward.source) == (1.0, RewardSource.AGENT)


async def test_async_graders_and_several_dimensions_are_stored_as_rewards(store: Store) -> None:
    async def agent(task: Json) -> str:
        return "hello"

    async def correct(task: Json, output: Json) -> dict[str, float]:
        return {"correct": float(output == "hello"), "brief": 0.5}

    def silent(task: Json, output: Json) -> None:
        return None

    async with running(store, agent, graders=(correct, silent)):
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        await store.rollouts.wait([rollout.id], timeout_s=5)
    rewards = await store.spans.rewards([rollout.id])
    assert {reward.dimension: reward.value for reward in rewards} == {"correct": 1.0, "brief": 0.5}
    assert {reward.source for reward in rewards} == {RewardSource.GRADER}


async def test_a_grader_that_answers_nan_fails_the_attempt_and_stores_no_reward(store: Store) -> None:
    async def agent(task: Json) -> str:
        return "hello"

    def broken(task: Json, output: Json) -> float:
        return float("nan")

    async with running(store, agent, graders=(broken,)):
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.failure is not None
    assert "finite" in done.failure.message
    assert await store.spans.rewards([rollout.id]) == []


async def test_an_output_that_is_no_json_is_kept_as_text(store: Store) -> None:
    async def agent(task: Json) -> object:
        return object

    async with running(store, agent):
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.output == "<class 'object'>"


async def test_a_failure_around_the_agent_is_infrastructure_and_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    flush = Exporter.flush

    async def flaky(self: Exporter, attempt_id: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreUnavailable("the disk is full")
        await flush(self, attempt_id)

    monkeypatch.setattr(Exporter, "flush", flaky)

    async def agent(task: Json) -> float:
        return 1.0

    async with running(store, agent):
        (rollout,) = await store.rollouts.enqueue(
            [RolloutRequest(task=1, config=RolloutConfig(max_attempts=2))]
        )
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.status is RolloutStatus.SUCCEEDED
    first, second = await store.rollouts.attempts([rollout.id])
    assert first.failure is not None
    assert first.failure.kind is FailureClass.INFRASTRUCTURE
    assert second.failure is None


async def test_spans_of_an_attempt_are_durable_when_it_has_finished(store: Store) -> None:
    async def agent(task: Json) -> float:
        return 0.5

    async with running(store, agent):
        queued = await store.rollouts.enqueue([RolloutRequest(task=n) for n in range(12)])
        done = await store.rollouts.wait([rollout.id for rollout in queued], timeout_s=10)
    assert {rollout.status for rollout in done} == {RolloutStatus.SUCCEEDED}
    page = await store.spans.page(SpanQuery(rollout_ids=tuple(rollout.id for rollout in queued)))
    operations = [span.operation for span in page.items]
    assert operations.count("agl.rollout") == 12
    assert operations.count("agl.reward") == 12
