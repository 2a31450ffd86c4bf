"""Servers restart, connections die, rows stay locked: what was acknowledged is there, and nothing happened twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import psycopg
import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SpanQuery, Store
from agentlightning.store.backend import RunRow, Unit
from agentlightning.types import Lease, RolloutRequest, RolloutStatus, Span, SpanSource
from lightning_plugin_postgres import PostgresStore
from lightning_plugin_postgres._address import parse_address
from lightning_plugin_postgres._failures import Stale
from lightning_plugin_postgres._pipe import Pipe
from lightning_plugin_postgres._schema import lock_key
from lightning_plugin_postgres._writing import WriteSession
from lightning_plugin_postgres.testing import PostgresServer, find_binaries

SETTLE = Pipe.settle


def span(lease: Lease, number: int) -> Span:
    return Span(
        rollout_id=lease.rollout.id, attempt_id=lease.attempt.id, span_id=f"{number:016x}", trace_id="0" * 32,
        name="span", operation="chat", source=SpanSource.GATEWAY, start_ns=number, end_ns=number,
    )  # fmt: skip


class Load:
    """Workers that run rollouts from end to end, and remember what was acknowledged."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.enqueued: list[str] = []
        self.finished: list[str] = []
        self.spans: dict[str, int] = {}
        self.stopping = False

    async def work(self) -> None:
        while not self.stopping:
            (rollout,) = await self.store.rollouts.enqueue([RolloutRequest(task=0)])
            self.enqueued.append(rollout.id)
            for lease in await self.store.rollouts.lease("worker", ttl_s=60.0):
                result = await self.store.spans.append([span(lease, number) for number in range(3)])
                self.spans[lease.rollout.id] = result.stored
                await self.store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
                self.finished.append(lease.rollout.id)

    async def check(self) -> None:
        """Everything acknowledged is there, once."""
        rollouts = {rollout.id: rollout for rollout in (await self.store.rollouts.list(limit=10**6)).items}
        assert len(self.enqueued) == len(rollouts)
        assert set(self.enqueued) == set(rollouts)
        assert len(self.finished) == len(set(self.finished))
        assert {name for name in rollouts if rollouts[name].status is RolloutStatus.SUCCEEDED} == set(
            self.finished
        )
        assert all(rollout.attempts <= 1 for rollout in rollouts.values())
        completions = [one.cursor for one in await self.store.rollouts.completions(limit=10**6)]
        assert completions == list(range(1, len(self.finished) + 1))
        assert set(self.spans.values()) == {3}
        assert await self.store.spans.count(SpanQuery()) == 3 * len(self.spans)


@asynccontextmanager
async def loaded(url: str, *, workers: int = 12) -> AsyncIterator[Load]:
    async with PostgresStore(url) as store:
        load = Load(store)
        tasks = [asyncio.create_task(load.work()) for _ in range(workers)]
        try:
            yield load
        finally:
            load.stopping = True
            await asyncio.gather(*tasks)
        await load.check()


async def more(load: Load, count: int = 30) -> None:
    """Waits until so many more rollouts are done."""
    goal = len(load.finished) + count
    while len(load.finished) < goal:  # noqa: ASYNC110 - the load goes on by itself
        await asyncio.sleep(0.01)


async def test_connections_that_are_killed_lose_and_double_nothing(server: PostgresServer, url: str) -> None:
    async with loaded(url) as load:
        for _ in range(15):
            await more(load, 10)
            assert await asyncio.to_thread(server.kill_backends)
        await more(load)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_loses_and_doubles_nothing(
    server: PostgresServer, url: str, mode: Literal["fast", "immediate"]
) -> None:
    async with loaded(url) as load:
        for _ in range(3):
            await more(load)
            await asyncio.to_thread(server.restart, mode)
        await more(load)


async def test_a_commit_whose_answer_is_lost_is_looked_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = cut_commits(monkeypatch, [settled, unsent, settled, unsent, unsent, settled])
    async with PostgresStore(url) as store:
        for number in range(6):
            await store.rollouts.enqueue([RolloutRequest(task=number)])
        rollouts = (await store.rollouts.list()).items
    assert [rollout.task for rollout in rollouts] == list(range(6))
    assert cuts == []


async def test_a_commit_that_was_given_up_cannot_happen_late(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server still has all statements to do, and nobody at the other end, when the writer asks and tries again."""

    def stuck(pipe: Pipe) -> None:
        pipe._pgconn.pipeline_sync()
        while pipe._pgconn.flush():
            pass
        while not blocked(server):
            pass

    schema = url.rpartition("schema=")[2]
    async with PostgresStore(url, patience_s=60.0) as store:
        await store.rollouts.enqueue([RolloutRequest(task=0, id="before")])
        cuts = cut_commits(monkeypatch, [stuck])
        with server.connect() as holder:
            holder.execute("BEGIN")
            holder.execute(f"LOCK TABLE {schema}.rollouts IN SHARE MODE".encode())
            call = asyncio.create_task(store.rollouts.enqueue([RolloutRequest(task=1, id="mine")]))
            while cuts or await asyncio.to_thread(blocked, server) < 2:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)
            holder.execute("ROLLBACK")
        (rollout,) = await call
        assert rollout.id == "mine"
        assert len((await store.rollouts.list()).items) == 2


async def test_an_operation_that_fails_after_it_wrote_has_changed_nothing(url: str) -> None:
    def half(unit: Unit) -> None:
        unit.tables.runs.add(RunRow(0, "half", b""))
        assert unit.tables.runs.total() == 1  # which sends what was written
        raise ValueError("no further")

    async with PostgresStore(url) as store:
        with pytest.raises(ValueError, match="no further"):
            await store._executor.write(half)
        assert await store._executor.read(lambda unit: unit.tables.runs.total()) == 0


async def test_what_was_written_before_a_conflict_was_seen_is_undone(url: str) -> None:
    tries: list[int] = []

    def stale_at_first(unit: Unit) -> int:
        tries.append(unit.tables.runs.total())
        if len(tries) == 1:
            unit.tables.runs.add(RunRow(0, "half", b""))
            assert unit.tables.runs.total() == 1
            raise Stale("somebody else was faster")
        return tries[-1]

    async with PostgresStore(url) as store:
        assert await store._executor.write(stale_at_first) == 0
        assert await store._executor.read(lambda unit: unit.tables.runs.total()) == 0
    assert tries == [0, 0]


async def test_a_row_that_somebody_keeps_locked_stops_nobody_else(server: PostgresServer, url: str) -> None:
    schema = url.rpartition("schema=")[2]
    async with PostgresStore(url, patience_s=0.3) as store:
        await store.rollouts.enqueue([RolloutRequest(task=n, id=f"r{n}") for n in range(4)])
        (held, other) = await store.rollouts.lease("worker", limit=2, ttl_s=60.0)
        with server.connect() as holder:
            holder.execute("BEGIN")
            holder.execute(f"SELECT * FROM {schema}.rollouts WHERE id IN ('r0', 'r2') FOR UPDATE".encode())
            holder.execute(f"SELECT * FROM {schema}.attempts WHERE rollout_id = 'r0' FOR UPDATE".encode())
            blocked_call = asyncio.create_task(
                store.rollouts.finish(held.attempt.id, token=held.attempt.token)
            )
            await store.rollouts.finish(other.attempt.id, token=other.attempt.token)
            assert [lease.rollout.id for lease in await store.rollouts.lease("next", limit=4)] == ["r3"]
            with pytest.raises(StoreUnavailable, match="another session keeps rollout 'r0'"):
                await blocked_call
            assert (await store.rollouts.get("r0")).status is RolloutStatus.RUNNING
            holder.execute("ROLLBACK")
        assert (await store.rollouts.finish(held.attempt.id, token=held.attempt.token)).id == "r0"


async def test_work_that_ends_waits_for_another_server_that_is_ending_work(
    server: PostgresServer, url: str
) -> None:
    lock = lock_key(parse_address(url), "completions")
    async with PostgresStore(url, patience_s=60.0) as store:
        await store.rollouts.enqueue([RolloutRequest(task=number) for number in range(8)])
        leases = await store.rollouts.lease("worker", limit=8, ttl_s=600.0)
        with server.connect() as holder:
            holder.execute("SELECT pg_advisory_lock(%s)", (lock,))
            calls = [
                asyncio.create_task(store.rollouts.finish(lease.attempt.id, token=lease.attempt.token))
                for lease in leases
            ]
            for timed_out in (False, True, False):  # a wait, its end, and the next try
                while bool(await asyncio.to_thread(blocked, server)) is timed_out:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.001)
        await asyncio.gather(*calls)
        completions = await store.rollouts.completions()
        assert [completion.cursor for completion in completions] == list(range(1, 9))


async def test_an_overdue_attempt_that_somebody_keeps_locked_stops_nobody_else(
    server: PostgresServer, url: str
) -> None:
    schema = url.rpartition("schema=")[2]
    async with PostgresStore(url) as store:
        await store.rollouts.enqueue([RolloutRequest(task=n, id=f"r{n}") for n in range(2)])
        with server.connect() as holder:
            await store.rollouts.lease("worker", ttl_s=0.01)
            holder.execute("BEGIN")
            locked = holder.execute(f"SELECT * FROM {schema}.attempts FOR UPDATE".encode()).fetchall()
            assert len(locked) == 1
            (lease,) = await store.rollouts.lease("other", wait_s=20.0)
            assert (await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)).id == "r1"
            assert len((await store.rollouts.list()).items) == 2
            holder.execute("ROLLBACK")
        assert (await store.rollouts.get("r0")).status is not RolloutStatus.RUNNING


async def test_a_server_that_stays_away_is_named_and_calls_end(url: str) -> None:
    with own_server() as server:
        async with PostgresStore(server.url(), patience_s=0.3) as store:
            await store.rollouts.enqueue([RolloutRequest(task=0)])
            server.stop()
            calls = [store.rollouts.enqueue([RolloutRequest(task=1)]), store.rollouts.list()]
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(answer, StoreUnavailable)
                assert server.password not in str(answer)
            server.start()
            await store.rollouts.enqueue([RolloutRequest(task=2)])
            assert [rollout.task for rollout in (await store.rollouts.list()).items] == [0, 2]


async def test_more_reads_than_connections_are_answered(url: str) -> None:
    async with PostgresStore(url, readers=2) as store:
        await store.rollouts.enqueue([RolloutRequest(task=0, id="r")])
        answers = await asyncio.gather(*(store.rollouts.get("r") for _ in range(100)))
    assert len(answers) == 100


async def test_a_server_without_room_for_one_more_connection_says_so() -> None:
    with own_server({"max_connections": "8", "superuser_reserved_connections": "0"}) as server:
        async with PostgresStore(server.url(), readers=2, patience_s=0.3) as store:
            await store.rollouts.enqueue([RolloutRequest(task=0)])
            hogs = []
            try:
                with contextlib.suppress(psycopg.OperationalError):
                    hogs.extend(server.connect() for _ in range(8))
                with pytest.raises(StoreUnavailable, match="max_connections"):
                    await PostgresStore(server.url()).__aenter__()
                await store.rollouts.enqueue([RolloutRequest(task=1)])
            finally:
                for hog in hogs:
                    hog.close()
            assert len((await store.rollouts.list()).items) == 2


@pytest.mark.parametrize("field", ["id", "group", "run_id", "resources"])
async def test_text_with_nul_is_refused_before_it_reaches_the_server(url: str, field: str) -> None:
    async with PostgresStore(url) as store:
        good = [store.rollouts.enqueue([RolloutRequest(task=n)]) for n in range(3)]
        bad = RolloutRequest(task="fine \0 here", **{field: "a\0b"})  # type: ignore[arg-type]
        answers = await asyncio.gather(*good, store.rollouts.enqueue([bad]), return_exceptions=True)
        assert isinstance(answers[3], ValueError)
        assert "NUL" in str(answers[3])
        assert len((await store.rollouts.list()).items) == 3
        with pytest.raises(ValueError, match="NUL"):
            await store.rollouts.get("a\0b")
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task="fine \0 here")])
        assert (await store.rollouts.get(rollout.id)).task == "fine \0 here"


def own_server(settings: dict[str, str] | None = None) -> PostgresServer:
    if find_binaries() is None:
        pytest.skip("there are no PostgreSQL binaries here (on Debian: apt-get install postgresql)")
    return PostgresServer(settings=settings)


def settled(pipe: Pipe) -> None:
    SETTLE(pipe)


def unsent(pipe: Pipe) -> None:
    pass


def cut_commits(
    monkeypatch: pytest.MonkeyPatch, how: list[Callable[[Pipe], None]]
) -> list[Callable[[Pipe], None]]:
    """Cuts the connection at each of the next commits, after something has happened."""
    commit = WriteSession.commit
    committing: list[Pipe] = []

    def commit_and_note(self: WriteSession, marker: int) -> bool:
        sent = commit(self, marker)
        if sent:
            committing.append(self._pipe)
        return sent

    def settle(self: Pipe) -> None:
        if committing and how:
            committing.clear()
            how[0](self)
            self._pgconn.finish()
            del how[0]
            raise psycopg.OperationalError("the cable was cut")
        SETTLE(self)

    monkeypatch.setattr(WriteSession, "commit", commit_and_note)
    monkeypatch.setattr(Pipe, "settle", settle)
    return how


def blocked(server: PostgresServer) -> int:
    with server.connect() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ).fetchone()
    assert row is not None
    return int(str(row[0]))
