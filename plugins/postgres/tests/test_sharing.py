"""Several servers on one database: work is shared, nothing is done twice, nothing is missed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from agentlightning.errors import Conflict, LeaseLost
from agentlightning.store import Store
from agentlightning.types import (
    ResourceState,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
    Run,
    RunKind,
    RunStatus,
)
from lightning_plugin_postgres import PostgresStore


async def opened(stack: AsyncExitStack, url: str, count: int = 2) -> list[Store]:
    return [await stack.enter_async_context(PostgresStore(url)) for _ in range(count)]


def requests(count: int) -> list[RolloutRequest]:
    return [RolloutRequest(task=number, id=f"r{number}") for number in range(count)]


async def test_32_workers_of_two_servers_never_share_a_rollout(url: str) -> None:
    taken: list[str] = []

    async def work(store: Store, name: str) -> None:
        while leases := await store.rollouts.lease(name, limit=3):
            for lease in leases:
                taken.append(lease.rollout.id)
                await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token)
                await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)

    async with AsyncExitStack() as stack:
        stores = await opened(stack, url)
        await stores[0].rollouts.enqueue(requests(400))
        await asyncio.gather(*(work(stores[number % 2], f"worker {number}") for number in range(32)))
        assert sorted(taken) == sorted(f"r{number}" for number in range(400))
        assert (await stores[1].statistics()).rollouts[RolloutStatus.SUCCEEDED] == 400


async def test_who_reads_completions_by_cursor_misses_none(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = await opened(stack, url, 4)
        await stores[0].rollouts.enqueue(requests(300))

        async def finish(store: Store) -> None:
            while leases := await store.rollouts.lease("worker", limit=2):
                for lease in leases:
                    await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)

        async def read() -> list[int]:
            seen: list[int] = []
            while len(seen) < 300:
                after = seen[-1] if seen else 0
                found = await stores[3].rollouts.completions(after=after, limit=7, wait_s=20.0)
                assert found, "a completion became visible behind the cursor"
                seen += [completion.cursor for completion in found]
            return seen

        reading = asyncio.create_task(read())
        await asyncio.gather(*(finish(stores[number % 3]) for number in range(24)))
        assert await reading == list(range(1, 301))


@pytest.mark.parametrize("query", ["", "&notify=on"])
async def test_work_and_results_are_seen_by_other_servers(url: str, query: str) -> None:
    async with AsyncExitStack() as stack:
        first, second = await opened(stack, url + query)
        waiting = [
            asyncio.create_task(second.rollouts.lease("any", wait_s=20.0)),
            asyncio.create_task(second.rollouts.lease("of a run", run_id="run", wait_s=20.0)),
        ]
        await asyncio.sleep(0)
        await first.rollouts.enqueue(
            [RolloutRequest(task=0, id="a"), RolloutRequest(task=1, id="b", run_id="run")]
        )
        done = asyncio.create_task(first.rollouts.wait(["a", "b"], timeout_s=20.0))
        for (lease,) in await asyncio.gather(*waiting):
            await second.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        assert [rollout.id for rollout in await done] == ["a", "b"]


async def test_work_of_one_server_s_dead_worker_goes_to_another_server(url: str) -> None:
    async with AsyncExitStack() as stack:
        first, second = await opened(stack, url)
        await first.rollouts.enqueue([RolloutRequest(task=0, config=RolloutConfig(max_attempts=2))])
        (dead,) = await first.rollouts.lease("dead", ttl_s=0.05)
        (lease,) = await second.rollouts.lease("living", wait_s=20.0)
        assert (lease.rollout.id, lease.attempt.sequence) == (dead.rollout.id, 2)
        with pytest.raises(LeaseLost):
            await first.rollouts.finish(dead.attempt.id, token=dead.attempt.token)


async def test_one_key_has_one_effect_however_many_servers_are_asked(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = await opened(stack, url, 4)
        answers = await asyncio.gather(
            *(
                store.rollouts.enqueue([RolloutRequest(task="work")], idempotency_key="once")
                for store in stores
                for _ in range(5)
            )
        )
        assert len({rollouts[0].id for rollouts in answers}) == 1
        assert len((await stores[0].rollouts.list()).items) == 1


async def test_one_id_is_given_once(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = await opened(stack, url, 4)
        answers = await asyncio.gather(
            *(
                store.rollouts.enqueue([RolloutRequest(task=0, id="mine")])
                for store in stores
                for _ in range(5)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(answer, Conflict) for answer in answers) == 19


async def test_only_one_of_many_publishes_on_a_parent(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = await opened(stack, url, 4)
        parent = None
        for _ in range(5):
            answers = await asyncio.gather(
                *(store.resources.publish({}, parent=parent) for store in stores), return_exceptions=True
            )
            assert sum(isinstance(answer, Conflict) for answer in answers) == 3
            live = await stores[0].resources.live()
            assert live is not None
            parent = live.id
        found = await stores[1].resources.list()
        assert [one.version for one in found] == [5, 4, 3, 2, 1]
        assert [one.state for one in found].count(ResourceState.LIVE) == 1


async def test_sets_moved_by_many_servers_leave_one_live(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = await opened(stack, url, 3)
        sets = [await stores[0].resources.publish({}, state=ResourceState.CANDIDATE) for _ in range(3)]
        for _ in range(5):
            await asyncio.gather(
                *(
                    store.resources.move(one.id, ResourceState.LIVE)
                    for store, one in zip(stores, sets, strict=True)
                )
            )
            states = [one.state for one in await stores[0].resources.list()]
            assert states.count(ResourceState.LIVE) == 1


async def test_a_run_has_one_owner(url: str) -> None:
    run = Run(
        id="run", kind=RunKind.TRAIN, algorithm="apo", status=RunStatus.STOPPED, config={}, seed=0,
        created_at=0.0, updated_at=0.0,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        stores = await opened(stack, url, 4)
        await stores[0].runs.create(run)
        answers = await asyncio.gather(
            *(
                store.runs.update("run", status=RunStatus.RUNNING, owner=f"host:{number}", ttl_s=60.0)
                for number, store in enumerate(stores)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(answer, LeaseLost) for answer in answers) == 3
