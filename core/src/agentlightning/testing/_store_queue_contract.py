"""The store's contract: enqueueing, leasing, listing and waiting."""
# ruff: noqa: S101 - the names of tests say it, and tests assert

from __future__ import annotations

import asyncio
import math

import pytest

from agentlightning.errors import Conflict, NotFound
from agentlightning.store import RolloutQuery, Store
from agentlightning.testing._store_case import StoreCase, finished, leased, requests
from agentlightning.types import (
    Lease,
    Mode,
    PromptTemplate,
    ResourceState,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
)

SOON_S = 20.0  # far longer than it takes, so that a loaded machine does not fail the test


class QueueContract(StoreCase):
    """Rollouts come in, are handed out once, and are found again."""

    async def test_enqueued_rollouts_are_queued_in_order_with_all_their_fields(self, store: Store) -> None:
        request = RolloutRequest(
            task={"question": "1 + 1", "hints": [1, 2.5, None, True]},
            id="mine",
            mode=Mode.VAL,
            run_id="run",
            group="pair",
            sample=3,
            seed=7,
            config=RolloutConfig(timeout_s=9.0, max_attempts=4),
            priority=2,
            metadata={"step": "5"},
        )
        first, second = await store.rollouts.enqueue([request, RolloutRequest(task="next")])
        found = await store.rollouts.get("mine")
        assert found == first
        assert {name: getattr(found, name) for name in request.__struct_fields__} == {
            name: getattr(request, name) for name in request.__struct_fields__
        }
        assert (found.status, found.attempts, found.output) == (RolloutStatus.QUEUED, 0, None)
        assert [rollout.id for rollout in (await store.rollouts.list()).items] == ["mine", second.id]

    async def test_a_taken_id_is_refused_and_nothing_is_added(self, store: Store) -> None:
        await store.rollouts.enqueue([RolloutRequest(task=0, id="a")])
        with pytest.raises(Conflict, match="'a'"):
            await store.rollouts.enqueue([RolloutRequest(task=1, id="b"), RolloutRequest(task=2, id="a")])
        assert [rollout.id for rollout in (await store.rollouts.list()).items] == ["a"]

    async def test_one_id_twice_in_a_request_is_refused(self, store: Store) -> None:
        with pytest.raises(Conflict, match="'a'"):
            await store.rollouts.enqueue([RolloutRequest(task=0, id="a"), RolloutRequest(task=1, id="a")])
        assert (await store.rollouts.list()).items == ()

    async def test_a_repeated_key_gives_the_first_result_and_adds_nothing(self, store: Store) -> None:
        first = await store.rollouts.enqueue(requests(3), idempotency_key="once")
        await store.rollouts.lease("worker")
        assert await store.rollouts.enqueue(requests(3), idempotency_key="once") == first
        assert len((await store.rollouts.list()).items) == 3

    async def test_a_repeated_key_with_other_requests_is_a_conflict(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(3), idempotency_key="once")
        with pytest.raises(Conflict, match="once"):
            await store.rollouts.enqueue(requests(2), idempotency_key="once")

    async def test_a_task_does_not_change_with_the_object_it_was_made_from(self, store: Store) -> None:
        task = {"items": [1]}
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=task)])
        task["items"].append(2)
        read = await store.rollouts.get(rollout.id)
        assert read.task == {"items": [1]}

    async def test_a_task_that_is_not_a_number_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="nan"):
            await store.rollouts.enqueue(
                [RolloutRequest(task=1), RolloutRequest(task={"x": [0.5, math.nan]})]
            )
        assert (await store.rollouts.list()).items == ()

    async def test_leases_are_first_in_first_out(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(3))
        await store.rollouts.enqueue(requests(2))
        assert [lease.rollout.task for lease in await store.rollouts.lease("worker", limit=9)] == [
            0,
            1,
            2,
            0,
            1,
        ]

    async def test_a_higher_priority_is_leased_first(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(2))
        await store.rollouts.enqueue(requests(2, priority=5))
        await store.rollouts.enqueue(requests(1, priority=-1))
        leases = await store.rollouts.lease("worker", limit=9)
        assert [(lease.rollout.priority, lease.rollout.task) for lease in leases] == [
            (5, 0), (5, 1), (0, 0), (0, 1), (-1, 0),
        ]  # fmt: skip

    async def test_a_lease_takes_no_more_than_its_limit(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(3))
        assert [len(await store.rollouts.lease("worker", limit=limit)) for limit in (0, 2, 2, 2)] == [
            0,
            2,
            1,
            0,
        ]

    async def test_a_lease_of_a_run_leaves_others_alone(self, store: Store) -> None:
        await store.rollouts.enqueue([*requests(1), *requests(1, run_id="a"), *requests(1, run_id="b")])
        (lease,) = await store.rollouts.lease("worker", limit=9, run_id="b")
        assert lease.rollout.run_id == "b"
        rest = await store.rollouts.lease("worker", limit=9)
        assert [other.rollout.run_id for other in rest] == [None, "a"]

    async def test_a_lease_hands_out_a_running_rollout_and_its_first_attempt(self, store: Store) -> None:
        lease = await leased(
            store, ttl_s=7.0, request=RolloutRequest(task=1, config=RolloutConfig(timeout_s=60.0))
        )
        assert lease.rollout == await store.rollouts.get(lease.rollout.id)
        assert (lease.rollout.status, lease.rollout.attempts) == (RolloutStatus.RUNNING, 1)
        attempt = lease.attempt
        assert [attempt] == await store.rollouts.attempts([lease.rollout.id])
        assert (attempt.rollout_id, attempt.sequence, attempt.worker) == (lease.rollout.id, 1, "worker")
        assert attempt.expires_at == attempt.leased_at + 7.0
        assert attempt.deadline_at == attempt.leased_at + 60.0

    async def test_a_waiting_lease_is_woken_by_work(self, store: Store) -> None:
        waiting = asyncio.create_task(store.rollouts.lease("worker", wait_s=SOON_S))
        await asyncio.sleep(0)
        assert await store.rollouts.lease("other") == []
        await store.rollouts.enqueue(requests(1))
        assert len(await asyncio.wait_for(waiting, SOON_S / 2)) == 1

    async def test_a_waiting_lease_gives_up_when_its_time_is_up(self, store: Store) -> None:
        assert await store.rollouts.lease("worker", wait_s=0.01) == []

    async def test_a_lease_repeated_under_its_key_gives_the_same_leases(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(3))
        first = await store.rollouts.lease("worker", limit=2, idempotency_key="k")
        again = await store.rollouts.lease("worker", limit=2, idempotency_key="k")
        assert [one.attempt.id for one in again] == [one.attempt.id for one in first]
        assert len(await store.rollouts.lease("worker", limit=9)) == 1
        with pytest.raises(Conflict, match="'k'"):
            await store.rollouts.lease("worker", limit=1, idempotency_key="k")
        await store.rollouts.finish(first[0].attempt.id, token=first[0].attempt.token)
        left = await store.rollouts.lease("worker", limit=2, idempotency_key="k")
        assert [one.attempt.id for one in left] == [first[1].attempt.id]

    async def test_a_lease_delivered_late_takes_nothing_once_its_key_gave_leases(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(3))
        for lease in await store.rollouts.lease("worker", limit=2, idempotency_key="k"):
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        late = store.rollouts.lease("worker", limit=2, wait_s=SOON_S, idempotency_key="k")
        assert await asyncio.wait_for(late, SOON_S / 2) == []
        assert len(await store.rollouts.lease("worker", limit=2, idempotency_key="next")) == 1

    async def test_a_lease_that_found_nothing_can_be_repeated_under_its_key(self, store: Store) -> None:
        assert await store.rollouts.lease("worker", idempotency_key="k") == []
        await store.rollouts.enqueue(requests(1))
        assert len(await store.rollouts.lease("worker", idempotency_key="k")) == 1

    async def test_each_waiting_worker_gets_one_of_the_rollouts_that_come(self, store: Store) -> None:
        waiting = [asyncio.create_task(store.rollouts.lease(f"w{n}", wait_s=20.0)) for n in range(4)]
        await asyncio.sleep(0)
        await store.rollouts.enqueue(requests(2))
        await store.rollouts.enqueue(requests(2))
        leases = [lease for found in await asyncio.gather(*waiting) for lease in found]
        assert len({lease.rollout.id for lease in leases}) == 4

    async def test_a_worker_waits_for_its_run_only(self, store: Store) -> None:
        waiting = asyncio.create_task(store.rollouts.lease("mine", wait_s=20.0, run_id="b"))
        other = asyncio.create_task(store.rollouts.lease("any", wait_s=20.0))
        await asyncio.sleep(0)
        await store.rollouts.enqueue(requests(1, run_id="a"))
        assert [one.rollout.run_id for one in await other] == ["a"]
        await store.rollouts.enqueue(requests(1, run_id="b"))
        assert [one.rollout.run_id for one in await waiting] == ["b"]

    async def test_many_workers_never_share_a_rollout(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(60))

        async def work(name: str) -> list[Lease]:
            leases: list[Lease] = []
            while found := await store.rollouts.lease(name, limit=2):
                leases += found
            return leases

        shares = await asyncio.gather(*(work(f"worker {number}") for number in range(8)))
        tasks = [lease.rollout.task for share in shares for lease in share]
        assert sorted(tasks, key=str) == sorted(range(60), key=str)

    async def test_a_worker_in_another_thread_and_loop_is_woken(self, store: Store) -> None:
        def work() -> list[Lease]:
            return asyncio.run(store.rollouts.lease("worker", wait_s=SOON_S))

        thread = asyncio.create_task(asyncio.to_thread(work))
        await store.rollouts.enqueue(requests(1))
        (lease,) = await asyncio.wait_for(thread, SOON_S / 2)
        assert lease.attempt.worker == "worker"

    async def test_the_live_set_is_pinned_when_leased_not_when_enqueued(self, store: Store) -> None:
        old = await store.resources.publish({"system": PromptTemplate(template="old")})
        await store.rollouts.enqueue(requests(1))
        new = await store.resources.publish({"system": PromptTemplate(template="new")}, parent=old.id)
        (lease,) = await store.rollouts.lease("worker")
        assert lease.rollout.resources == new.id

    async def test_a_set_that_the_request_pins_is_kept(self, store: Store) -> None:
        candidate = await store.resources.publish({}, state=ResourceState.CANDIDATE)
        await store.resources.publish({})
        lease = await leased(store, request=RolloutRequest(task=0, resources=candidate.id))
        assert lease.rollout.resources == candidate.id

    async def test_a_canary_gets_its_share_and_groups_stay_together(self, store: Store) -> None:
        live = await store.resources.publish({})
        canary = await store.resources.publish({}, parent=live.id, state=ResourceState.CANARY, weight=0.5)
        for group in range(40):
            await store.rollouts.enqueue(requests(2, group=f"group {group}"))
        leases = await store.rollouts.lease("worker", limit=80)
        chosen: dict[str | None, set[str | None]] = {}
        for lease in leases:
            chosen.setdefault(lease.rollout.group, set()).add(lease.rollout.resources)
        assert all(len(sets) == 1 for sets in chosen.values())
        shares = [lease.rollout.resources for lease in leases].count(canary.id) / len(leases)
        assert 0.2 < shares < 0.8

    async def test_an_unknown_rollout_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            await store.rollouts.get("nowhere")

    async def test_listings_come_in_pages_in_order_of_creation(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(5))
        first = await store.rollouts.list(limit=2)
        second = await store.rollouts.list(limit=2, cursor=first.cursor)
        third = await store.rollouts.list(limit=2, cursor=second.cursor)
        tasks = [[rollout.task for rollout in page.items] for page in (first, second, third)]
        assert tasks == [[0, 1], [2, 3], [4]]
        assert third.cursor is None

    async def test_listings_can_begin_with_the_newest(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(3))
        first = await store.rollouts.list(RolloutQuery(newest_first=True), limit=2)
        second = await store.rollouts.list(RolloutQuery(newest_first=True), limit=2, cursor=first.cursor)
        assert [rollout.task for rollout in (*first.items, *second.items)] == [2, 1, 0]

    async def test_listings_are_restricted_by_every_field_of_the_query(self, store: Store) -> None:
        a = await finished(store, request=RolloutRequest(task="a", run_id="r", group="g", mode=Mode.TEST))
        b = await leased(store, request=RolloutRequest(task="b", run_id="r"))
        (c,) = await store.rollouts.enqueue([RolloutRequest(task="c", group="g")])

        async def tasks(query: RolloutQuery) -> list[object]:
            return [rollout.task for rollout in (await store.rollouts.list(query)).items]

        assert await tasks(RolloutQuery(run_id="r")) == ["a", "b"]
        assert await tasks(RolloutQuery(group="g")) == ["a", "c"]
        assert await tasks(RolloutQuery(mode=Mode.TEST)) == ["a"]
        assert await tasks(RolloutQuery(statuses=(RolloutStatus.RUNNING, RolloutStatus.QUEUED))) == ["b", "c"]
        assert await tasks(RolloutQuery(ids=(c.id, a.rollout.id, "nowhere"))) == ["a", "c"]
        assert await tasks(RolloutQuery(ids=(b.rollout.id,), group="g")) == []

    async def test_wait_returns_the_terminal_ones_in_the_given_order(self, store: Store) -> None:
        first = await finished(store)
        running = await leased(store)
        second = await finished(store)
        ids = [second.rollout.id, running.rollout.id, first.rollout.id]
        done = await store.rollouts.wait(ids, timeout_s=0.01)
        assert [rollout.id for rollout in done] == [second.rollout.id, first.rollout.id]

    async def test_wait_is_woken_by_the_last_one(self, store: Store) -> None:
        leases = [await leased(store), await leased(store)]
        ids = [lease.rollout.id for lease in leases]
        waiting = asyncio.create_task(store.rollouts.wait(ids, timeout_s=None))
        await asyncio.sleep(0)
        for lease in leases:
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        assert [rollout.id for rollout in await asyncio.wait_for(waiting, SOON_S)] == ids

    async def test_wait_for_a_group_or_a_run_waits_for_all_of_it(self, store: Store) -> None:
        await store.rollouts.enqueue([*requests(2, group="g", run_id="r"), *requests(1, run_id="r")])
        leases = await store.rollouts.lease("worker", limit=3)
        for lease in leases[:2]:
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        ids = [lease.rollout.id for lease in leases]
        assert [one.id for one in await store.rollouts.wait(group="g", timeout_s=20.0)] == ids[:2]
        assert [one.id for one in await store.rollouts.wait(run_id="r", timeout_s=0.0)] == ids[:2]
        waiting = asyncio.create_task(store.rollouts.wait(run_id="r", timeout_s=20.0))
        await asyncio.sleep(0)
        await store.rollouts.finish(leases[2].attempt.id, token=leases[2].attempt.token)
        assert [one.id for one in await waiting] == ids

    async def test_wait_needs_exactly_one_thing_to_wait_for(self, store: Store) -> None:
        for which in ({}, {"group": "g", "run_id": "r"}):
            with pytest.raises(ValueError, match="exactly one"):
                await store.rollouts.wait(**which, timeout_s=0.0)

    async def test_waiting_for_an_unknown_rollout_is_refused(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            await store.rollouts.wait(["nowhere"], timeout_s=1.0)

    async def test_completions_come_in_the_order_in_which_rollouts_ended(self, store: Store) -> None:
        first, second, third = [await leased(store) for _ in range(3)]
        for lease in (second, third, first):
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        done = await store.rollouts.completions(limit=2)
        assert [completion.rollout.id for completion in done] == [second.rollout.id, third.rollout.id]
        (last,) = await store.rollouts.completions(after=done[-1].cursor)
        assert last.rollout.id == first.rollout.id
        assert done[0].cursor < done[1].cursor < last.cursor

    async def test_completions_of_a_run_leave_others_out(self, store: Store) -> None:
        await finished(store)
        lease = await finished(store, request=RolloutRequest(task=0, run_id="r"))
        done = await store.rollouts.completions(run_id="r")
        assert [completion.rollout.id for completion in done] == [lease.rollout.id]

    async def test_waiting_for_completions_is_woken(self, store: Store) -> None:
        lease = await leased(store)
        waiting = asyncio.create_task(store.rollouts.completions(wait_s=SOON_S))
        await asyncio.sleep(0)
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        (completion,) = await asyncio.wait_for(waiting, SOON_S / 2)
        assert completion.rollout.status is RolloutStatus.SUCCEEDED
