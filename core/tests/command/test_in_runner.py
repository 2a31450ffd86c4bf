"""Commands under a runner: failures keep their last words, and an attempt that is over takes its command with it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentlightning._execution import Execution
from agentlightning.capture import Exporter, install_tracing
from agentlightning.observer import Observers
from agentlightning.runner import InProcessLauncher, Runner, RunnerConfig
from agentlightning.store import Store, open_store
from agentlightning.types import (
    Attempt,
    FailureClass,
    Resource,
    Rollout,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only")
SLOW = """
import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]], start_new_session=True)
print("thinking", flush=True)
pathlib.Path("ready").touch()
time.sleep(600)
"""


async def no_resources(_: str | None) -> Mapping[str, Resource]:
    return {}


@asynccontextmanager
async def running(store: Store, agent: object) -> AsyncIterator[asyncio.Task[None]]:
    install_tracing()
    async with Exporter(store.spans) as exporter:
        runner = Runner(
            store,
            execution=Execution(agent, adapters=[], concurrency=4),
            exporter=exporter,
            gateway=None,
            graders=[],
            resources=no_resources,
            observers=Observers(),
            config=RunnerConfig(concurrency=4, lease_ttl_s=0.3),
        )
        task = asyncio.create_task(InProcessLauncher().run(runner, run_id=None))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


async def enqueued(store: Store, **config: Any) -> Rollout:
    settings = RolloutConfig(max_attempts=1, **config)
    (rollout,) = await store.rollouts.enqueue([RolloutRequest(task="x", config=settings)])
    return rollout


async def attempt_of(store: Store, rollout: Rollout) -> Attempt:
    (attempt,) = await store.rollouts.attempts([rollout.id])
    return attempt


async def test_the_output_of_a_command_is_the_rollouts(store: Store, traces: Any) -> None:
    async with running(store, traces.python("print(0.5)", result="json")):
        rollout = await enqueued(store)
        (done,) = await store.rollouts.wait([rollout.id], timeout_s=20)
    (reward,) = await store.spans.rewards([rollout.id])
    assert (done.status, reward.value) == (RolloutStatus.SUCCEEDED, 0.5)


async def test_a_failed_attempt_says_how_its_command_ended(store: Store, traces: Any) -> None:
    async with running(store, traces.python("raise SystemExit('no such model')")):
        rollout = await enqueued(store)
        await store.rollouts.wait([rollout.id], timeout_s=20)
    failure = (await attempt_of(store, rollout)).failure
    assert failure is not None
    assert failure.kind is FailureClass.AGENT_ERROR
    assert failure.message.endswith("ended with exit status 1; its last words on stderr: 'no such model'")


async def test_a_command_that_takes_too_long_is_a_time_out_with_its_last_words(
    store: Store, traces: Any
) -> None:
    async with running(store, traces.python(SLOW, timeout_s=1.0, grace_s=0.1)):
        rollout = await enqueued(store)
        await store.rollouts.wait([rollout.id], timeout_s=20)
        assert traces.alive() == []
    failure = (await attempt_of(store, rollout)).failure
    assert failure is not None
    assert failure.kind is FailureClass.TIMED_OUT
    assert "took longer than 1.0 s; its last words on stdout: 'thinking'" in (failure.detail or "")


async def test_a_rollouts_own_time_limit_ends_the_command(store: Store, traces: Any) -> None:
    async with running(store, traces.python(SLOW, grace_s=0.1)):
        rollout = await enqueued(store, timeout_s=1.0)
        await store.rollouts.wait([rollout.id], timeout_s=20)
        await traces.gone()
    failure = (await attempt_of(store, rollout)).failure
    assert failure is not None
    assert failure.kind is FailureClass.TIMED_OUT


async def test_a_cancelled_rollout_or_lost_lease_ends_the_command(store: Store, traces: Any) -> None:
    async with running(store, traces.python(SLOW, grace_s=0.1)):
        rollout = await enqueued(store)
        await traces.started()
        await store.rollouts.cancel([rollout.id], reason="enough")
        await traces.gone()


async def test_a_runner_that_is_stopped_ends_its_commands(store: Store, traces: Any) -> None:
    async with running(store, traces.python(SLOW, grace_s=0.1)) as serving:
        for _ in range(3):
            await enqueued(store)
        await traces.started(3)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        assert traces.alive() == []
        assert traces.places() == []
