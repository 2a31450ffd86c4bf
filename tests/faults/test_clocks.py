"""Clocks that jump an hour, go backwards or stand still, on every backend."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentlightning.errors import LeaseLost
from agentlightning.store import MemoryStore, SqliteStore, Store
from agentlightning.testing import ManualClock
from agentlightning.types import AttemptStatus, FailureClass, RolloutConfig, RolloutRequest, RolloutStatus
from faults.services import missing

HOUR_S = 3600.0
TTL_S = 30.0
RETRIED = RolloutConfig(max_attempts=2, retry_on=(FailureClass.LOST,))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture(scope="module")
def postgres() -> Iterator[object]:
    if reason := missing("postgresql"):
        pytest.skip(reason)
    from lightning_plugin_postgres.testing import PostgresServer

    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "http", "postgresql"])
def closed(
    request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store that is not open yet, with `clock` as its own."""
    with ExitStack() as stack:
        if request.param == "memory":
            yield MemoryStore(clock=clock)
        elif request.param == "sqlite":
            yield SqliteStore(tmp_path / "store.db", clock=clock)
        elif request.param == "postgresql":
            from lightning_plugin_postgres import PostgresStore

            server = request.getfixturevalue("postgres")
            yield PostgresStore(server.url(schema=f"clock_{secrets.token_hex(4)}"), clock=clock)
        else:
            from lightning_plugin_server import HttpStore
            from lightning_plugin_server.testing import running_server

            server = stack.enter_context(running_server(MemoryStore(clock=clock)))
            monkeypatch.setenv("AGL_KEY", server.key)
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
            yield HttpStore(server.url)


async def test_an_hour_forward_costs_each_worker_its_lease_and_nothing_else(
    closed: Store, clock: ManualClock
) -> None:
    async with closed as store:
        await store.rollouts.enqueue([RolloutRequest(task=number, config=RETRIED) for number in range(3)])
        held = await store.rollouts.lease("worker", limit=2, ttl_s=TTL_S)
        clock.advance(HOUR_S)
        for lease in held:
            with pytest.raises(LeaseLost):
                await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        again = await store.rollouts.lease("worker", limit=3, ttl_s=TTL_S)
        assert [lease.rollout.task for lease in again] == [0, 1, 2]
        for lease in again:
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        done = await store.rollouts.completions()
        assert [each.cursor for each in done] == [1, 2, 3]
        assert {each.rollout.status for each in done} == {RolloutStatus.SUCCEEDED}


async def test_an_hour_backward_takes_no_lease_away_and_the_next_heartbeat_sets_it_right(
    closed: Store, clock: ManualClock
) -> None:
    async with closed as store:
        await store.rollouts.enqueue([RolloutRequest(task=0, config=RETRIED)])
        (lease,) = await store.rollouts.lease("worker", ttl_s=TTL_S)
        clock.advance(-HOUR_S)
        assert await store.sweep() == 0
        beat = await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token, ttl_s=TTL_S)
        assert beat.expires_at == clock.now + TTL_S
        clock.advance(TTL_S + 1.0)
        (again,) = await store.rollouts.lease("other", ttl_s=TTL_S)
        assert (again.rollout.id, again.attempt.token) == (lease.rollout.id, lease.attempt.token + 1)
        with pytest.raises(LeaseLost):
            await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token)


async def test_order_does_not_depend_on_the_clock(closed: Store, clock: ManualClock) -> None:
    async with closed as store:
        ids = []
        for jump_s in (
            0.0,
            0.0,
            -HOUR_S,
            -1.0,
            2 * HOUR_S,
            0.0,
            -HOUR_S,
        ):  # the same time twice, and backwards
            clock.advance(jump_s)
            ids += [each.id for each in await store.rollouts.enqueue([RolloutRequest(task=jump_s)] * 2)]
        assert [each.id for each in (await store.rollouts.list()).items] == ids
        leases = [lease for _ in ids for lease in await store.rollouts.lease("worker", ttl_s=10 * HOUR_S)]
        assert [lease.rollout.id for lease in leases] == ids
        for lease in reversed(leases):
            clock.advance(-1.0)
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        done = await store.rollouts.completions()
        assert [each.rollout.id for each in done] == ids[::-1]
        assert [each.cursor for each in done] == list(range(1, len(ids) + 1))


async def test_what_ended_stays_ended_when_the_clock_goes_back(closed: Store, clock: ManualClock) -> None:
    async with closed as store:
        await store.rollouts.enqueue([RolloutRequest(task=0, config=RolloutConfig(max_attempts=1))])
        (lease,) = await store.rollouts.lease("worker", ttl_s=TTL_S)
        clock.advance(HOUR_S)
        (lost,) = await store.rollouts.attempts([lease.rollout.id])
        assert lost.status is AttemptStatus.LOST
        clock.advance(-2 * HOUR_S)
        with pytest.raises(LeaseLost):
            await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token)
        assert (await store.rollouts.get(lease.rollout.id)).status is RolloutStatus.FAILED
        assert await store.rollouts.attempts([lease.rollout.id]) == [lost]
