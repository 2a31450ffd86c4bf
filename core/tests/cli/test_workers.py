"""`agl work`: what a worker tells, and which rollouts it leaves to others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store import open_store
from agentlightning.types import (
    FailureClass,
    Json,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Run,
    RunKind,
    RunStatus,
)

Agl = Callable[..., Any]
STORE = "sqlite:///agl.db"
WORK = ("work", "agent.py:solve", "--until-idle", "0.1", "--store", STORE)


async def enqueue(*runs: str, config: dict[str, Json]) -> None:
    async with open_store(STORE) as store:
        for run_id in runs:
            now = time.time()
            await store.runs.create(
                Run(
                    id=run_id,
                    kind=RunKind.TRAIN,
                    status=RunStatus.RUNNING,
                    algorithm="x",
                    seed=0,
                    config=config,
                    created_at=now,
                    updated_at=now,
                )
            )
            await store.rollouts.enqueue([RolloutRequest(task={"x": 2}, run_id=run_id)])


async def rollouts() -> dict[str | None, Rollout]:
    async with open_store(STORE) as store:
        return {one.run_id: one for one in (await store.rollouts.list()).items}


async def failures(rollout: Rollout) -> list[FailureClass]:
    async with open_store(STORE) as store:
        return [one.failure.kind for one in await store.rollouts.attempts([rollout.id]) if one.failure]


def test_a_worker_hands_back_what_needs_a_model_that_another_process_serves(agl: Agl, project: Path) -> None:
    asyncio.run(enqueue("serves", config={"engine": "torch"}))
    done = agl(*WORK)
    assert done.code == 2
    assert "run serves serves its model (torch) in its own process" in done.err
    rollout = asyncio.run(rollouts())["serves"]
    assert rollout.status is RolloutStatus.QUEUED
    assert asyncio.run(failures(rollout)) == [FailureClass.INFRASTRUCTURE]


@pytest.mark.parametrize("config", [{"engine": None}, {}])
def test_a_worker_takes_what_needs_no_model_of_the_run(
    agl: Agl, project: Path, config: dict[str, Json]
) -> None:
    asyncio.run(enqueue("plain", config=config))
    done = agl(*WORK)
    assert done.code == 0, done.err
    assert asyncio.run(rollouts())["plain"].status is RolloutStatus.SUCCEEDED


def test_a_worker_that_is_told_where_the_model_is_served_takes_its_run(
    agl: Agl, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning_plugin_gateway")
    monkeypatch.setenv("AGL_PLUGINS", "gateway")
    asyncio.run(enqueue("serves", config={"engine": "torch"}))
    done = agl(*WORK, "--upstream", "*=http://127.0.0.1:9/v1")
    assert done.code == 0, done.err
    assert asyncio.run(rollouts())["serves"].status is RolloutStatus.SUCCEEDED


def test_a_worker_of_another_run_does_not_mind(agl: Agl, project: Path) -> None:
    asyncio.run(enqueue("serves", config={"engine": "torch"}))
    asyncio.run(enqueue("plain", config={}))
    done = agl(*WORK, "--run", "plain")
    assert done.code == 0, done.err
    assert {name: one.status for name, one in asyncio.run(rollouts()).items()} == {
        "plain": RolloutStatus.SUCCEEDED,
        "serves": RolloutStatus.QUEUED,
    }


def test_a_worker_tells_why_the_first_rollout_failed(agl: Agl, project: Path) -> None:
    async def enqueue() -> None:
        async with open_store("sqlite:///agl.db") as store:
            await store.rollouts.enqueue([RolloutRequest(task={"x": 13}), RolloutRequest(task={"x": 13})])

    asyncio.run(enqueue())
    done = agl("work", "agent.py:solve", "--until-idle", "0.1", "--store", "sqlite:///agl.db")
    assert done.err.count("the first failure: ro-") == 1
    assert "RuntimeError: unlucky" in done.err
    assert "2 rollouts: 2 failed" in done.err
