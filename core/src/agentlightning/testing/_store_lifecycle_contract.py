"""The store's contract: leases, endings, retries, cancellation and time."""
# ruff: noqa: S101 - the names of tests say it, and tests assert

from __future__ import annotations

import asyncio

import pytest

from agentlightning.errors import LeaseLost, NotFound
from agentlightning.store import Store
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.testing._store_case import (
    StoreCase,
    failure,
    finished,
    leased,
    requests,
    retrying,
)
from agentlightning.types import (
    AttemptStatus,
    FailureClass,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
)

SOON_S = 20.0


class LifecycleContract(StoreCase):
    """No state is ever wrong, whoever dies and whenever somebody looks."""

    async def test_a_heartbeat_extends_the_lease_and_moves_the_attempt_to_running(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(store, ttl_s=10.0)
        assert lease.attempt.status is AttemptStatus.LEASED
        clock.advance(8.0)
        beat = await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token, ttl_s=10.0)
        assert (beat.expires_at, beat.cancelled) == (clock.now + 10.0, False)
        clock.advance(8.0)
        (attempt,) = await store.rollouts.attempts([lease.rollout.id])
        assert (attempt.status, attempt.expires_at) == (AttemptStatus.RUNNING, beat.expires_at)

    async def test_finish_without_failure_succeeds_with_the_output(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(store)
        clock.advance(2.0)
        rollout = await store.rollouts.finish(
            lease.attempt.id, token=lease.attempt.token, output={"answer": [4]}
        )
        assert rollout == await store.rollouts.get(rollout.id)
        assert (rollout.status, rollout.output, rollout.failure) == (
            RolloutStatus.SUCCEEDED, {"answer": [4]}, None,
        )  # fmt: skip
        assert rollout.finished_at == clock.now
        (attempt,) = await store.rollouts.attempts([rollout.id])
        assert (attempt.status, attempt.output) == (AttemptStatus.SUCCEEDED, {"answer": [4]})
        assert attempt.finished_at == clock.now

    @pytest.mark.parametrize(
        ("kind", "attempt_status", "rollout_status"),
        [
            (FailureClass.AGENT_ERROR, AttemptStatus.FAILED, RolloutStatus.FAILED),
            (FailureClass.INFRASTRUCTURE, AttemptStatus.FAILED, RolloutStatus.FAILED),
            (FailureClass.TIMED_OUT, AttemptStatus.TIMED_OUT, RolloutStatus.FAILED),
            (FailureClass.LOST, AttemptStatus.LOST, RolloutStatus.FAILED),
            (FailureClass.CANCELLED, AttemptStatus.CANCELLED, RolloutStatus.CANCELLED),
        ],
    )
    async def test_a_failure_ends_the_attempt_by_its_kind(
        self, store: Store, kind: FailureClass, attempt_status: AttemptStatus, rollout_status: RolloutStatus
    ) -> None:
        lease = await leased(store)
        rollout = await store.rollouts.finish(
            lease.attempt.id, token=lease.attempt.token, failure=failure(kind)
        )
        assert (rollout.status, rollout.failure, rollout.output) == (rollout_status, failure(kind), None)
        (attempt,) = await store.rollouts.attempts([rollout.id])
        assert (attempt.status, attempt.failure) == (attempt_status, failure(kind))

    async def test_a_failure_named_by_retry_on_is_tried_again_in_its_place(self, store: Store) -> None:
        request = RolloutRequest(task="first", config=retrying(FailureClass.AGENT_ERROR))
        lease = await leased(store, request=request)
        await store.rollouts.enqueue(requests(2))
        back = await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, failure=failure())
        assert (back.status, back.failure, back.finished_at) == (RolloutStatus.QUEUED, None, None)
        (again,) = await store.rollouts.lease("other")
        assert again.rollout.id == lease.rollout.id
        assert (again.attempt.sequence, again.rollout.attempts) == (2, 2)
        assert again.attempt.token > lease.attempt.token
        done = await store.rollouts.finish(again.attempt.id, token=again.attempt.token, output=1)
        assert (done.status, done.failure) == (RolloutStatus.SUCCEEDED, None)

    async def test_a_rollout_fails_when_no_attempt_is_left(self, store: Store) -> None:
        request = RolloutRequest(task=0, config=retrying(FailureClass.AGENT_ERROR, max_attempts=2))
        lease = await leased(store, request=request)
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, failure=failure())
        (again,) = await store.rollouts.lease("worker")
        rollout = await store.rollouts.finish(again.attempt.id, token=again.attempt.token, failure=failure())
        assert (rollout.status, rollout.failure) == (RolloutStatus.FAILED, failure())
        assert await store.rollouts.lease("worker") == []

    async def test_a_retry_runs_on_the_set_that_is_live_then(self, store: Store) -> None:
        old = await store.resources.publish({})
        lease = await leased(store, request=RolloutRequest(task=0, config=retrying(FailureClass.AGENT_ERROR)))
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, failure=failure())
        new = await store.resources.publish({}, parent=old.id)
        (again,) = await store.rollouts.lease("worker")
        assert (lease.rollout.resources, again.rollout.resources) == (old.id, new.id)

    async def test_repeating_an_identical_finish_changes_nothing(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(store)
        first = await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output=[1])
        clock.advance(5.0)
        assert await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output=[1]) == first
        assert len(await store.rollouts.completions()) == 1

    async def test_another_finish_of_an_ended_attempt_is_refused(self, store: Store) -> None:
        lease = await finished(store, output=1)
        with pytest.raises(LeaseLost, match="succeeded"):
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, failure=failure())
        assert (await store.rollouts.get(lease.rollout.id)).status is RolloutStatus.SUCCEEDED

    async def test_a_heartbeat_of_an_ended_attempt_is_refused(self, store: Store) -> None:
        lease = await finished(store)
        with pytest.raises(LeaseLost, match="succeeded"):
            await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token)

    async def test_unknown_attempts_are_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            await store.rollouts.heartbeat("nowhere", token=1)
        with pytest.raises(NotFound, match="nowhere"):
            await store.rollouts.finish("nowhere", token=1)

    async def test_a_wrong_token_is_refused_and_changes_nothing(self, store: Store) -> None:
        lease = await leased(store)
        with pytest.raises(LeaseLost, match="token"):
            await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token - 1)
        with pytest.raises(LeaseLost, match="token"):
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token - 1)
        assert await store.rollouts.attempts([lease.rollout.id]) == [lease.attempt]

    async def test_an_attempt_without_heartbeats_is_lost(self, store: Store, clock: ManualClock) -> None:
        lease = await leased(store, ttl_s=10.0)
        clock.advance(10.0)
        rollout = await store.rollouts.get(lease.rollout.id)
        assert rollout.status is RolloutStatus.FAILED
        assert rollout.failure is not None
        assert rollout.failure.kind is FailureClass.LOST
        (attempt,) = await store.rollouts.attempts([rollout.id])
        assert attempt.status is AttemptStatus.LOST

    async def test_an_attempt_past_its_timeout_is_timed_out_despite_heartbeats(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(
            store, ttl_s=10.0, request=RolloutRequest(task=0, config=RolloutConfig(timeout_s=12.0))
        )
        for _ in range(2):
            clock.advance(5.0)
            await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token, ttl_s=10.0)
        clock.advance(5.0)
        with pytest.raises(LeaseLost, match="timed_out"):
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        rollout = await store.rollouts.get(lease.rollout.id)
        assert rollout.failure is not None
        assert rollout.failure.kind is FailureClass.TIMED_OUT

    async def test_what_ran_out_first_decides_however_late_somebody_looks(
        self, store: Store, clock: ManualClock
    ) -> None:
        request = RolloutRequest(task=0, config=RolloutConfig(timeout_s=60.0))
        lease = await leased(store, ttl_s=10.0, request=request)
        clock.advance(1000.0)
        (attempt,) = await store.rollouts.attempts([lease.rollout.id])
        assert attempt.status is AttemptStatus.LOST

    async def test_a_lost_attempt_is_tried_again_and_the_zombie_is_refused(
        self, store: Store, clock: ManualClock
    ) -> None:
        request = RolloutRequest(task=0, config=RolloutConfig(max_attempts=2))
        zombie = await leased(store, ttl_s=10.0, request=request)
        clock.advance(11.0)
        (successor,) = await store.rollouts.lease("successor", ttl_s=10.0)
        assert successor.rollout.id == zombie.rollout.id
        with pytest.raises(LeaseLost):
            await store.rollouts.heartbeat(zombie.attempt.id, token=zombie.attempt.token)
        with pytest.raises(LeaseLost):
            await store.rollouts.finish(zombie.attempt.id, token=zombie.attempt.token, output="zombie")
        done = await store.rollouts.finish(
            successor.attempt.id, token=successor.attempt.token, output="successor"
        )
        assert (done.status, done.output) == (RolloutStatus.SUCCEEDED, "successor")
        statuses = [attempt.status for attempt in await store.rollouts.attempts([done.id])]
        assert statuses == [AttemptStatus.LOST, AttemptStatus.SUCCEEDED]

    async def test_sweep_ends_what_is_overdue(self, store: Store, clock: ManualClock) -> None:
        await leased(store, ttl_s=10.0)
        assert await store.sweep() == 0
        clock.advance(11.0)
        await store.sweep()
        assert len(await store.rollouts.completions()) == 1
        assert await store.sweep() == 0

    async def test_an_idle_store_ends_overdue_work_by_itself(self, store: Store, clock: ManualClock) -> None:
        lease = await leased(store, ttl_s=10.0)
        waiting = asyncio.create_task(store.rollouts.wait([lease.rollout.id]))
        await asyncio.sleep(0)
        await store.rollouts.get(lease.rollout.id)
        clock.advance(11.0)
        (rollout,) = await asyncio.wait_for(waiting, SOON_S)
        assert rollout.status is RolloutStatus.FAILED

    async def test_by_default_lost_work_is_leased_again(self, store: Store, clock: ManualClock) -> None:
        lease = await leased(store, ttl_s=10.0, request=RolloutRequest(task=0))
        clock.advance(11.0)
        (again,) = await store.rollouts.lease("other")
        assert (again.rollout.id, again.attempt.sequence) == (lease.rollout.id, 2)

    async def test_a_waiting_worker_gets_the_work_of_a_dead_one(
        self, store: Store, clock: ManualClock
    ) -> None:
        await leased(store, ttl_s=10.0, request=RolloutRequest(task=0, config=RolloutConfig(max_attempts=2)))
        waiting = asyncio.create_task(store.rollouts.lease("successor", wait_s=SOON_S))
        await asyncio.sleep(0)
        assert await store.rollouts.lease("other") == []
        clock.advance(11.0)
        (lease,) = await asyncio.wait_for(waiting, SOON_S / 2)
        assert lease.attempt.sequence == 2

    async def test_a_clock_set_back_keeps_the_lease_and_a_heartbeat_corrects_it(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(store, ttl_s=10.0)
        clock.advance(-3600.0)
        beat = await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token, ttl_s=10.0)
        assert beat.expires_at == clock.now + 10.0
        clock.advance(10.0)
        assert (await store.rollouts.get(lease.rollout.id)).status is RolloutStatus.FAILED

    async def test_cancel_takes_queued_work_out_of_the_queue(self, store: Store) -> None:
        (first, second) = await store.rollouts.enqueue(requests(2))
        (cancelled,) = await store.rollouts.cancel([first.id], reason="enough")
        assert cancelled.status is RolloutStatus.CANCELLED
        assert cancelled.failure is not None
        assert (cancelled.failure.kind, cancelled.failure.message) == (FailureClass.CANCELLED, "enough")
        (lease,) = await store.rollouts.lease("worker", limit=2)
        assert lease.rollout.id == second.id

    async def test_cancel_reaches_the_worker_through_its_heartbeat(self, store: Store) -> None:
        lease = await leased(store)
        await store.rollouts.cancel([lease.rollout.id])
        beat = await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token)
        assert beat.cancelled

    async def test_a_cancelled_attempt_never_succeeds(self, store: Store) -> None:
        lease = await leased(store)
        await store.rollouts.cancel([lease.rollout.id])
        with pytest.raises(LeaseLost, match="cancelled"):
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output=1)
        (attempt,) = await store.rollouts.attempts([lease.rollout.id])
        assert attempt.status is AttemptStatus.CANCELLED

    async def test_cancel_leaves_terminal_rollouts_as_they_are(self, store: Store) -> None:
        lease = await finished(store, output=1)
        before = await store.rollouts.get(lease.rollout.id)
        assert await store.rollouts.cancel([before.id]) == [before]
        assert len(await store.rollouts.completions()) == 1

    async def test_cancel_of_an_unknown_rollout_cancels_nothing(self, store: Store) -> None:
        (rollout,) = await store.rollouts.enqueue(requests(1))
        with pytest.raises(NotFound, match="nowhere"):
            await store.rollouts.cancel([rollout.id, "nowhere"])
        assert (await store.rollouts.get(rollout.id)).status is RolloutStatus.QUEUED
