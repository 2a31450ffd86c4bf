"""A SQLite file that cannot be used says so in one line, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SqliteStore, open_store
from agentlightning.types import RolloutRequest

FULL = """
import asyncio, resource, sys
from agentlightning.errors import StoreUnavailable
from agentlightning.store import open_store
from agentlightning.types import RolloutRequest

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(url):
    kept = []
    async with open_store(url) as store:
        limit(2**20)
        try:
            while True:
                (rollout,) = await store.rollouts.enqueue([RolloutRequest(task="x" * 20000)])
                kept.append(rollout.id)
        except StoreUnavailable as error:
            print(error)
        many = [store.rollouts.enqueue([RolloutRequest(task="x" * size)]) for size in (2**21, 10, 2**21, 10)]
        done = await asyncio.gather(*many, return_exceptions=True)
        print([isinstance(result, StoreUnavailable) for result in done][0::2])
        limit(resource.RLIM_INFINITY)
        kept += [rollout.id for result in done if isinstance(result, list) for rollout in result]
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task="again")])
        kept.append(rollout.id)
    async with open_store(url) as store:
        found = (await store.rollouts.list(limit=10**6)).items
        print([rollout.id for rollout in found] == kept)

asyncio.run(main(sys.argv[1]))
"""


async def refusal(store: SqliteStore) -> str:
    with pytest.raises(StoreUnavailable) as refused:
        async with store:
            pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


@contextmanager
def sqlite_file(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n" * 100)
    assert "not a SQLite database" in await refusal(SqliteStore(path))
    assert path.read_text() == "remember the milk\n" * 100


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite_file(path) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    assert "'customers'" in await refusal(SqliteStore(path))
    with sqlite_file(path) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_master")] == ["customers"]


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path):
        pass
    with sqlite_file(path) as connection:
        connection.execute("INSERT INTO agl_migrations VALUES (99, 'from the future')")
    assert "upgrade agentlightning-core" in await refusal(SqliteStore(path))


async def test_a_schema_that_is_not_what_was_released_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path):
        pass
    with sqlite_file(path) as connection:
        connection.execute("UPDATE agl_migrations SET checksum = 'other'")
    assert "another migration 1" in await refusal(SqliteStore(path))


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be made" in await refusal(SqliteStore(tmp_path / "file" / "store.db"))


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be opened" in await refusal(SqliteStore(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "writable" in asyncio.run(refusal(SqliteStore(tmp_path / "store.db")))


async def test_a_file_that_another_process_keeps_locked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path, patience_s=0.05) as store:
        with sqlite_file(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.rollouts.enqueue([RolloutRequest(task=0)])
            assert (await store.rollouts.list()).items == ()
            connection.execute("COMMIT")
        await store.rollouts.enqueue([RolloutRequest(task=1)])
        assert [rollout.task for rollout in (await store.rollouts.list()).items] == [1]


def test_a_full_disk_loses_nothing_and_the_store_goes_on_afterwards(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    done = subprocess.run([sys.executable, "-c", FULL, url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    advice, refused, kept = done.stdout.splitlines()
    assert "nothing acknowledged was lost" in advice
    assert (refused, kept) == ("[True, True]", "True")


async def test_one_failing_operation_does_not_sink_those_committed_with_it(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        await store.rollouts.enqueue([RolloutRequest(task=0, id="taken")])
        calls = [
            store.rollouts.enqueue(
                [RolloutRequest(task=number, id="taken" if number % 3 == 0 else f"id {number}")]
            )
            for number in range(30)
        ]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, list) for result in done] == [number % 3 != 0 for number in range(30)]
        assert len((await store.rollouts.list()).items) == 21


async def test_an_operation_that_fails_half_way_leaves_no_half(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=0)])
        with pytest.raises(UnicodeEncodeError):
            await store.rollouts.lease("a name that SQLite cannot keep: \ud800")
        assert await store.rollouts.get(rollout.id) == rollout
        assert await store.rollouts.attempts([rollout.id]) == []


async def test_a_sweep_that_fails_is_an_error_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(unit: object) -> int:
        raise LookupError("a row that makes no sense")

    async with SqliteStore(tmp_path / "store.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr("agentlightning.store._sqlite_writer.sweep", broken)
            with pytest.raises(LookupError, match="no sense"):
                await store.rollouts.enqueue([RolloutRequest(task=0)])
        await store.rollouts.enqueue([RolloutRequest(task=1)])
        assert [rollout.task for rollout in (await store.rollouts.list()).items] == [1]
