"""The runner campaign: `agl work` processes are killed in the middle of their rollouts; every rollout succeeds once."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from agentlightning.cli._stores import store_at
from agentlightning.plugins import load_plugins
from agentlightning.store import RolloutQuery, SpanQuery
from agentlightning.types import AttemptStatus, FailureClass, RolloutConfig, RolloutRequest, RolloutStatus
from faults.invariants import require
from faults.services import AGL, SERVICES

if TYPE_CHECKING:
    from agentlightning.store import Store
    from faults.services import Service

_AGENT = Path(__file__).with_name("agent.py")
_TTL_S = 2.0
_PATIENCE_S = 120.0
_CONFIG = RolloutConfig(max_attempts=50, retry_on=(FailureClass.LOST, FailureClass.INFRASTRUCTURE))


@dataclass(frozen=True)
class RunnersReport:
    """What it did.

    Attributes:
        lost: Attempts that died with their runner.
    """

    backend: str
    kills: int
    rollouts: int
    lost: int
    seconds: float


def run_runners(backend: str, *, kills: int, rollouts: int, seed: int, runners: int = 2) -> RunnersReport:
    """Kills runners at random points until all rollouts have ended.

    Raises:
        Violation: A rollout did not end, did not succeed, or succeeded twice.
    """
    return asyncio.run(
        _run(backend, kills=kills, rollouts=rollouts, chance=random.Random(seed), runners=runners)
    )


async def _run(
    backend: str, *, kills: int, rollouts: int, chance: random.Random, runners: int
) -> RunnersReport:
    began = time.monotonic()
    with SERVICES[backend]() as service, mock.patch.dict(os.environ, service.environment):
        async with store_at(service.url, load_plugins()) as store:
            requests = [
                RolloutRequest(task=chance.uniform(0.0, 0.2), config=_CONFIG) for _ in range(rollouts)
            ]
            ids = [each.id for each in await store.rollouts.enqueue(requests)]
            processes = [_start(service) for _ in range(runners)]
            try:
                for _ in range(kills):
                    await _wait_for_running(store)
                    await asyncio.sleep(chance.uniform(0.0, 0.3))
                    victim = chance.randrange(runners)
                    processes[victim].kill()
                    await asyncio.to_thread(processes[victim].wait)
                    processes[victim] = _start(service)
                done = await store.rollouts.wait(ids, timeout_s=_PATIENCE_S)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            require(
                len(done) == rollouts, f"rollouts did not end within {_PATIENCE_S:g} s", rollouts - len(done)
            )
            lost = await _check(store, ids)
        service.check()
    return RunnersReport(backend, kills, rollouts, lost, round(time.monotonic() - began, 1))


def _start(service: Service) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [AGL, "work", f"{_AGENT}:agent", "--store", service.url, "--lease-ttl", str(_TTL_S), "--quiet"],
        env=os.environ | service.environment,
    )


async def _wait_for_running(store: Store) -> None:
    running = RolloutQuery(statuses=(RolloutStatus.QUEUED, RolloutStatus.RUNNING))
    until = time.monotonic() + _PATIENCE_S
    while (left := (await store.rollouts.list(running, limit=1)).items) and left[
        0
    ].status is RolloutStatus.QUEUED:
        require(time.monotonic() < until, "no runner takes work", left)
        await asyncio.sleep(0.02)


async def _check(store: Store, ids: list[str]) -> int:
    """How many attempts were lost."""
    attempts = await store.rollouts.attempts(ids)
    succeeded = [each.rollout_id for each in attempts if each.status is AttemptStatus.SUCCEEDED]
    require(sorted(succeeded) == sorted(ids), "not every rollout succeeded once", len(succeeded), len(ids))
    rewards = await store.spans.rewards(ids)
    require(sorted(each.rollout_id for each in rewards) == sorted(ids), "not one reward each", len(rewards))
    for each in attempts:
        if each.status is AttemptStatus.SUCCEEDED:
            spans = (await store.spans.page(SpanQuery(attempt_ids=(each.id,)))).items
            require(
                [span.sequence for span in spans] == list(range(1, len(spans) + 1)), "gaps in spans of", each
            )
            require(len(spans) > 0, "an attempt that succeeded without a span", each)
    return sum(each.status is AttemptStatus.LOST for each in attempts)
