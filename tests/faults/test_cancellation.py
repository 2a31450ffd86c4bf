"""Whoever is cancelled while it waits for the store stops waiting, at whatever moment that happens."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from agentlightning.store import MemoryStore, RolloutQuery, _executor
from agentlightning.types import RolloutRequest, RolloutStatus
from faults.virtual_loop import VirtualLoop, run_virtually


async def cancelled_after(turns: int, *, method: str) -> bool:
    """Whether a call that is cancelled so many turns after its wake-up ends as cancelled and holds nothing."""
    async with MemoryStore() as store:
        options = {"lease": {"worker": "worker", "wait_s": 60.0}, "completions": {"wait_s": 60.0}}[method]
        waiting = asyncio.create_task(getattr(store.rollouts, method)(**options))
        await asyncio.sleep(1.0)
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=0)])
        if method == "completions":
            await store.rollouts.cancel([rollout.id])
        for _ in range(turns):
            await asyncio.sleep(0)
        if waiting.done():
            return True
        waiting.cancel()
        await asyncio.wait([waiting], timeout=120.0)
        held = await store.rollouts.list(RolloutQuery(statuses=(RolloutStatus.RUNNING,)))
        return waiting.cancelled() and not held.items


@pytest.mark.parametrize("method", ["lease", "completions"])
def test_a_call_that_is_cancelled_just_when_it_is_woken_ends(method: str) -> None:
    with mock.patch.object(_executor, "SWEEP_INTERVAL_S", 3600.0):
        ends = [run_virtually(cancelled_after(turns, method=method), VirtualLoop()) for turns in range(6)]
    assert all(ends)
