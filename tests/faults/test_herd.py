"""Many workers on one queue: each rollout goes to one of them, in the order that is promised."""

from __future__ import annotations

from pathlib import Path

from agentlightning.store import open_store
from agentlightning.types import RolloutRequest
from faults.herd import run_herd


def test_thirty_two_workers_in_four_processes_never_share_a_rollout() -> None:
    report = run_herd(workers=32, rollouts=600)
    assert (report.workers, report.rollouts) == (32, 600)
    assert 0 < report.median_wait_s <= report.longest_wait_s


async def test_priorities_are_strict_and_within_one_the_oldest_comes_first(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        await store.rollouts.enqueue(
            [RolloutRequest(task=("low", number), priority=-1) for number in range(3)]
        )
        for number in range(20):  # urgent work that keeps coming
            await store.rollouts.enqueue([RolloutRequest(task=("high", number))])
            (lease,) = await store.rollouts.lease("worker")
            assert lease.rollout.task == ["high", number]
        rest = await store.rollouts.lease("worker", limit=10)
        assert [lease.rollout.task for lease in rest] == [["low", number] for number in range(3)]
