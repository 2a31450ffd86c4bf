"""Disks that are full or read-only, and files that were cut, altered or robbed of their log: said, never hidden."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SpanQuery, SqliteStore, Store
from agentlightning.types import RolloutRequest
from faults import requests
from faults.ledger import Ledger
from faults.verifier import verify, wait_until_free

FLIPS = 60
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from agentlightning.store import SqliteStore
from agentlightning.types import RolloutRequest

async def main(path):
    async with SqliteStore(Path(path)) as store:
        for number in range(200):
            await store.rollouts.enqueue([RolloutRequest(task=number)])
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def fill(path: Path) -> None:
    async with SqliteStore(path) as store:
        await requests.create(store, "run")
        await requests.log(store, "key", "run")
        await requests.publish(store, "key")
        for number in range(4):
            await requests.enqueue(store, f"key {number}", 4)
            for lease in await requests.lease(store, f"key {number}", 2):
                await requests.append(store, lease.attempt.id, 0, lease.attempt.token)
                await requests.finish(store, lease.attempt.id, lease.attempt.token, succeeds=True)


async def everything(path: Path) -> str:
    async with SqliteStore(path) as store:
        rollouts = (await store.rollouts.list(limit=1000)).items
        ids = [rollout.id for rollout in rollouts]
        found = (
            rollouts,
            await store.rollouts.attempts(ids),
            await store.rollouts.completions(limit=1000),
            await store.spans.page(SpanQuery(include_late=True), limit=10_000),
            await store.spans.rewards(ids),
            await store.resources.list(),
            await store.runs.list(),
            await store.runs.events("run"),
            await store.runs.metrics("run"),
        )
    return repr(found)


def is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as connection:
            return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
    except (sqlite3.Error, UnicodeDecodeError):
        return False


def copied(path: Path, content: bytes) -> Path:
    """A file of its own with this content, and no log."""
    for old in path.parent.glob("copy.db*"):
        old.unlink()
    copy = path.with_name("copy.db")
    copy.write_bytes(content)
    return copy


def read_after_flip(path: Path, content: bytes, chance: random.Random) -> tuple[str, bool]:
    """Flips one bit: everything that can be read, or the kind of error; and whether SQLite finds the file sound."""
    altered = bytearray(content)
    altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
    copy = copied(path, bytes(altered))
    sound = is_sound(copy)
    try:
        return asyncio.run(everything(copy)), sound
    except Exception as error:  # noqa: BLE001 - which error it is, is what is tested
        return type(error).__name__, sound


async def write_until_full(store: Store, acknowledged: list[str]) -> str:
    for number in range(10_000):
        try:
            (rollout,) = await store.rollouts.enqueue([RolloutRequest(task="x" * 20_000, id=f"r{number}")])
        except StoreUnavailable as error:
            return str(error)
        acknowledged.append(rollout.id)
    raise AssertionError("the disk never became full")


async def test_a_full_disk_is_said_and_nothing_acknowledged_is_lost(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 2**20)
    acknowledged: list[str] = []
    async with SqliteStore(small_disk / "store.db") as store:
        assert "disk is full" in await write_until_full(store, acknowledged)
        assert acknowledged
        assert [each.id for each in (await store.rollouts.list(limit=1000)).items] == acknowledged
        ballast.unlink()
        await store.rollouts.enqueue([RolloutRequest(task="there is room again", id="again")])
    assert is_sound(small_disk / "store.db")
    async with SqliteStore(small_disk / "store.db") as store:
        found = [each.id for each in (await store.rollouts.list(limit=1000)).items]
    assert found == [*acknowledged, "again"]


async def test_a_read_only_disk_is_said(small_disk: Path) -> None:
    path = small_disk / "store.db"
    await fill(path)
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreUnavailable, match=r"store\.db"):
        await fill(path)


def test_a_log_that_was_deleted_costs_what_was_in_it_and_breaks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(fill(path))
    before = asyncio.run(everything(path))
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    log = path.with_name("store.db-wal")
    assert log.stat().st_size
    log.unlink()
    assert is_sound(path)
    assert asyncio.run(everything(path)) == before  # the log had not been folded into the file yet


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "store.db"
    asyncio.run(fill(path))
    content = path.read_bytes()
    copy = copied(path, content[: int(len(content) * share)])
    with pytest.raises(StoreUnavailable, match=r"copy\.db.*(damaged|not a SQLite database)"):
        asyncio.run(everything(copy))


def test_a_flipped_bit_in_the_structure_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(fill(path))
    content = bytearray(path.read_bytes())
    page_bytes = int.from_bytes(content[16:18], "big")
    assert page_bytes == 4096
    for page in range(0, len(content), page_bytes):  # the kind of each page
        content[page + (100 if page == 0 else 0)] ^= 0x40
    copy = copied(path, bytes(content))
    assert not is_sound(copy)
    with pytest.raises(StoreUnavailable, match="damaged"):
        asyncio.run(everything(copy))


@pytest.mark.xfail(
    strict=True, reason="rows have no checksum: a flip inside a value is not seen, neither by SQLite"
)
def test_a_flipped_bit_is_never_read_as_if_it_were_right(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(fill(path))
    content, before, chance = path.read_bytes(), asyncio.run(everything(path)), random.Random(1)
    for _ in range(FLIPS):
        found, sound = read_after_flip(path, content, chance)
        assert found == before or not sound or found == StoreUnavailable.__name__


def test_a_flipped_bit_raises_store_unavailable_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(fill(path))
    content, chance = path.read_bytes(), random.Random(1)
    kinds = {read_after_flip(path, content, chance)[0] for _ in range(FLIPS)}
    assert {kind for kind in kinds if kind.endswith(("Error", "Unavailable"))} <= {StoreUnavailable.__name__}


async def test_the_file_that_the_checks_use_is_itself_whole(tmp_path: Path) -> None:
    await fill(tmp_path / "store.db")
    ledger = Ledger()
    async with SqliteStore(tmp_path / "store.db") as store:
        await wait_until_free(store)
        assert [each.cursor for each in await store.rollouts.completions()] == list(range(1, 9))
        with pytest.raises(AssertionError, match="nobody asked for"):
            await verify(store, ledger)
