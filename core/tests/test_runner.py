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
from agentlightning.runner import Grader, InProcessLauncher, LoadResources, Runner, RunnerConfig
from agentlightning.store import MemoryStore, SpanQuery, Store, open_store
from agentlightning.testing import ManualClock
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
    store: Store,
    agent: object,
    *,
    graders: tuple[Grader, ...] = (),
    ttl_s: float = 30.0,
    resources: LoadResources = no_resources,
) -> AsyncIterator[Runner]:
    install_tracing()
    async with Exporter(store.spans) as exporter:
        runner = Runner(
            store,
            execution=Execution(agent, adapters=[], concurrency=4),
            exporter=exporter,
            gateway=None,
            graders=graders,
            resources=resources,
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


async def test_work_that_ends_in_time_is_finished_when_the_runner_drains(store: Store) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def agent(task: Json) -> float:
        started.set()
        await go_on.wait()
        return 1.0

    async with running(store, agent) as runner:
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        await started.wait()
        draining = asyncio.create_task(runner.drain(grace_s=30))
        await asyncio.sleep(0)
        (later,) = await store.rollouts.enqueue([RolloutRequest(task=2)])
        go_on.set()
        await draining
        assert (await store.rollouts.get(rollout.id)).status is RolloutStatus.SUCCEEDED
        assert (await store.rollouts.get(later.id)).status is RolloutStatus.QUEUED


async def test_work_that_does_not_end_in_time_is_handed_back_and_tried_by_another(store: Store) -> None:
    started, killed = asyncio.Event(), asyncio.Event()

    async def stuck(task: Json) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            killed.set()

    async def quick(task: Json) -> float:
        return 1.0

    (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
    async with running(store, stuck) as runner:
        await started.wait()
        await runner.drain(grace_s=0.01)
        assert killed.is_set()
        assert (await store.rollouts.get(rollout.id)).status is RolloutStatus.QUEUED
    async with running(store, quick):
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.status is RolloutStatus.SUCCEEDED
    first, _ = await store.rollouts.attempts([rollout.id])
    assert first.failure is not None
    assert (first.failure.kind, "was stopped" in first.failure.message) == (FailureClass.INFRASTRUCTURE, True)


async def test_an_idle_runner_drains_at_once_and_takes_nothing_afterwards(store: Store) -> None:
    async def agent(task: Json) -> float:
        return 1.0

    async with running(store, agent) as runner:
        await asyncio.sleep(0.01)
        async with asyncio.timeout(2):
            await runner.drain(grace_s=30)
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        assert await store.rollouts.wait([rollout.id], timeout_s=0.05) == []


async def test_an_end_is_reported_once_the_store_is_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, calls = store.rollouts.finish, 0

    async def away_at_first(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise StoreUnavailable("it is away")
        return await finish(*arguments, **named)

    monkeypatch.setattr(store.rollouts, "finish", away_at_first)

    async def agent(task: Json) -> float:
        return 1.0

    async with running(store, agent, ttl_s=0.3):
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert (done.status, done.attempts, calls) == (RolloutStatus.SUCCEEDED, 1, 4)


async def test_an_agent_whose_lease_must_have_run_out_is_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = asyncio.Event()

    async def endless(task: Json) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            killed.set()

    async def away(*arguments: object, **named: object) -> object:
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(store.rollouts, "heartbeat", away)
    async with running(store, endless, ttl_s=0.2):
        await store.rollouts.enqueue([RolloutRequest(task=1, config=RolloutConfig(max_attempts=1))])
        async with asyncio.timeout(5):
            await killed.wait()


async def test_a_heartbeat_that_hangs_delays_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat, beaten = store.rollouts.heartbeat, asyncio.Event()
    hanging, beats = "", 0

    async def slow_for_one(attempt_id: str, **named: object) -> object:
        nonlocal hanging, beats
        hanging = hanging or attempt_id
        if attempt_id == hanging:
            await asyncio.Event().wait()
        beats += 1
        if beats == 6:
            beaten.set()
        return await heartbeat(attempt_id, **named)

    monkeypatch.setattr(store.rollouts, "heartbeat", slow_for_one)

    async def endless(task: Json) -> None:
        await asyncio.Event().wait()

    config = RolloutConfig(max_attempts=1)
    async with running(store, endless, ttl_s=1.2):
        queued = await store.rollouts.enqueue([RolloutRequest(task=n, config=config) for n in range(2)])
        async with asyncio.timeout(20):
            await beaten.wait()
        statuses = {(await store.rollouts.get(rollout.id)).status for rollout in queued}
    assert statuses == {RolloutStatus.RUNNING, RolloutStatus.FAILED}


async def test_an_attempt_has_its_time_whatever_the_clocks_say(monkeypatch: pytest.MonkeyPatch) -> None:
    async def agent(task: Json) -> float:
        return 1.0

    long_ago = ManualClock(1e6)  # by this machine's clock, all of it is over
    async with MemoryStore(clock=long_ago) as store, running(store, agent):
        (rollout,) = await store.rollouts.enqueue(
            [RolloutRequest(task=1, config=RolloutConfig(timeout_s=60))]
        )
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.status is RolloutStatus.SUCCEEDED


async def test_an_output_that_the_store_refuses_is_the_agents_failure(store: Store) -> None:
    async def agent(task: Json) -> object:
        return {"score": float("nan")}

    async with running(store, agent):
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=1)])
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.failure is not None
    assert (done.attempts, done.failure.kind) == (1, FailureClass.AGENT_ERROR)
    assert "cannot be stored" in done.failure.message


async def test_resources_that_cannot_be_loaded_are_infrastructure(store: Store) -> None:
    async def agent(task: Json) -> float:
        return 1.0

    async def broken(_: str | None) -> Mapping[str, Resource]:
        raise KeyError("a plugin of somebody's")

    async with running(store, agent, resources=broken):
        (rollout,) = await store.rollouts.enqueue(
            [RolloutRequest(task=1, config=RolloutConfig(max_attempts=2))]
        )
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=5)
    assert done.failure is not None
    assert (done.attempts, done.failure.kind) == (2, FailureClass.INFRASTRUCTURE)


async def test_it_is_known_how_long_a_runner_was_idle(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def agent(task: Json) -> float:
        return 1.0

    lease, away = store.rollouts.lease, True

    async def sometimes_away(*arguments: object, **named: object) -> object:
        if away:
            raise StoreUnavailable("it is away")
        return await lease(*arguments, **{**named, "wait_s": 0.0})

    monkeypatch.setattr(store.rollouts, "lease", sometimes_away)
    async with running(store, agent) as runner:
        await asyncio.sleep(0.05)
        assert runner.idle_s == 0.0
        away = False
        async with asyncio.timeout(5):
            while not runner.idle_s:  # noqa: ASYNC110 - it is what a worker does
                await asyncio.sleep(0.01)
        assert runner.active == 0
