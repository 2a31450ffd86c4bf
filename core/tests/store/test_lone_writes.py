"""A write that is alone is done in its caller's event loop; what SQLite's thread is there for still happens."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SqliteStore
from agentlightning.types import RolloutRequest

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTE = 2**20


class Ids:
    """Makes ids, and notes which threads ask for one while they write."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.interrupt = False
        self._numbers = itertools.count()

    def __call__(self) -> str:
        self.threads.add(threading.current_thread().name)
        if self.interrupt:
            self.interrupt = False
            raise KeyboardInterrupt
        return f"{next(self._numbers):08x}"


async def test_a_lone_write_takes_no_detour_and_a_crowd_is_committed_by_the_thread(tmp_path: Path) -> None:
    ids = Ids()
    async with SqliteStore(tmp_path / "store.db", new_id=ids) as store:
        for number in range(20):
            await store.rollouts.enqueue([RolloutRequest(task=number)])
            await asyncio.sleep(0.001)
        assert threading.current_thread().name in ids.threads

        await asyncio.gather(*(store.rollouts.enqueue([RolloutRequest(task=0)]) for _ in range(64)))
        ids.threads.clear()
        await asyncio.gather(*(store.rollouts.enqueue([RolloutRequest(task=0)]) for _ in range(64)))
        assert ids.threads == {"agl-store-writer"}
        assert (await store.rollouts.list(limit=1)).items


@pytest.mark.parametrize("slow_s", [0.002])
async def test_a_task_that_writes_on_and_on_leaves_others_their_turn(tmp_path: Path, slow_s: float) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def new_id() -> str:
        time.sleep(slow_s)  # a slow disk
        return secrets.token_hex(8)

    async with SqliteStore(tmp_path / "store.db", new_id=new_id) as store:
        waiting = asyncio.create_task(other())
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            await store.rollouts.enqueue([RolloutRequest(task=0)])
        waiting.cancel()
    assert turns > 3


async def test_with_durability_full_no_event_loop_waits_for_the_disk(tmp_path: Path) -> None:
    ids = Ids()
    async with SqliteStore(tmp_path / "store.db", durability="full", new_id=ids) as store:
        for number in range(20):
            await store.rollouts.enqueue([RolloutRequest(task=number)])
    assert ids.threads == {"agl-store-writer"}


async def test_lone_writes_leave_time_for_other_tasks(tmp_path: Path) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with SqliteStore(tmp_path / "store.db") as store:
        other = asyncio.create_task(others())
        for number in range(300):
            await store.rollouts.enqueue([RolloutRequest(task=number)])
        other.cancel()
    assert turns > 5


async def test_the_log_of_lone_writes_is_folded_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path) as store:
        largest = 0
        for _ in range(600):
            await store.rollouts.enqueue([RolloutRequest(task="x" * (MEGABYTE // 8))])
            largest = max(largest, path.with_name("store.db-wal").stat().st_size)
        assert path.stat().st_size > 20 * MEGABYTE
    assert largest < 64 * MEGABYTE


async def test_an_interrupt_in_the_middle_of_a_lone_write_leaves_nothing_behind(tmp_path: Path) -> None:
    ids = Ids()
    async with SqliteStore(tmp_path / "store.db", new_id=ids) as store:
        await store.rollouts.enqueue([RolloutRequest(task="before")])
        ids.interrupt = True
        with pytest.raises(KeyboardInterrupt):
            await store.rollouts.enqueue([RolloutRequest(task="interrupted")])
        await store.rollouts.enqueue([RolloutRequest(task="after")])
        assert [each.task for each in (await store.rollouts.list()).items] == ["before", "after"]


async def test_a_lone_write_waits_for_another_process_without_blocking_its_loop(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path, patience_s=20.0) as store:
        await store.rollouts.enqueue([RolloutRequest(task="before")])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(store.rollouts.enqueue([RolloutRequest(task="after")]))
            for _ in range(5):
                await asyncio.sleep(0.01)
            assert not waiting.done()
            other.execute("COMMIT")
        await waiting


async def test_a_lone_write_that_fails_on_the_medium_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path) as store:
        await store.rollouts.enqueue([RolloutRequest(task="before")])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DROP TABLE attempts")
        with pytest.raises(StoreUnavailable, match=r"store\.db"):
            await store.rollouts.enqueue([RolloutRequest(task="after")])
