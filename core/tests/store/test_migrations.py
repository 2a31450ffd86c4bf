"""An older file is copied aside, then migrated wholly or not at all; nothing in it is lost."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path

import msgspec
import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import RolloutQuery, SpanQuery, SqliteStore, Store
from agentlightning.store._sqlite_schema import _LEDGER, MIGRATIONS, _checksum
from agentlightning.testing import ManualClock
from agentlightning.types import (
    RolloutConfig,
    Span,
    SpanSource,
    reward_span,
)

SPANS = 40


def first_version(path: Path) -> None:
    """Makes a file as the first release made it, with something of everything."""
    connection = sqlite3.connect(path)
    connection.execute(_LEDGER)
    for statement in MIGRATIONS[0].split(";\n"):
        connection.execute(statement)
    connection.execute("INSERT INTO agl_migrations VALUES (1, ?)", (_checksum(MIGRATIONS[0]),))
    pack = msgspec.msgpack.encode
    config = pack(RolloutConfig())
    body = pack([{"q": 1}, 0, None, {"step": "3"}])
    rollout = (
        1,
        "done",
        "run",
        "g",
        "train",
        0,
        None,
        5.0,
        body,
        config,
        "succeeded",
        1,
        None,
        1,
        9.0,
        pack("out"),
        None,
    )
    queued = (
        2,
        "waits",
        None,
        None,
        "val",
        7,
        None,
        6.0,
        body,
        config,
        "queued",
        0,
        None,
        None,
        None,
        None,
        None,
    )
    connection.executemany("INSERT INTO rollouts VALUES (" + ", ".join("?" * 17) + ")", [rollout, queued])
    connection.execute("INSERT INTO idempotency_keys VALUES ('k', ?, '[\"waits\"]')", (b"digest",))
    attempt = (
        1,
        "done.1",
        "done",
        1,
        "w",
        1,
        5.5,
        None,
        "succeeded",
        35.0,
        None,
        9.0,
        pack("out"),
        None,
        SPANS + 1,
        0,
    )
    connection.execute("INSERT INTO attempts VALUES (" + ", ".join("?" * 16) + ")", attempt)
    for number in range(1, SPANS + 1):
        span = old_span(number)
        row = ((1 << 32) + number, 1, span.span_id, span.operation, span.agent, 0, pack(span))
        connection.execute("INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    reward = old_reward()
    number = (1 << 32) + SPANS + 1
    connection.execute(
        "INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?)",
        (number, 1, reward.span_id, reward.operation, None, 0, pack(reward)),
    )
    connection.execute(
        "INSERT INTO rewards VALUES (?, 1, ?, 0.5, 'reward', NULL, 'agent', NULL)", (number, reward.span_id)
    )
    connection.commit()
    connection.close()


def old_span(number: int) -> Span:
    return Span(
        rollout_id="done",
        attempt_id="done.1",
        span_id=f"{number:016x}",
        trace_id="0" * 31 + "1",
        name=f"span {number}",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=number,
        end_ns=number + 1,
    )


def old_reward() -> Span:
    return reward_span(
        rollout_id="done", attempt_id="done.1", span_id="f" * 16, trace_id="1" * 32, time_ns=9, value=0.5
    )


def copies(folder: Path) -> list[str]:
    return sorted(place.name for pattern in ("*.bak", "*.part") for place in folder.glob(pattern))


async def check_everything(store: Store) -> None:
    rollout = await store.rollouts.get("done")
    assert (rollout.task, rollout.output, rollout.metadata) == ({"q": 1}, "out", {"step": "3"})
    spans = (await store.spans.page(SpanQuery())).items
    expected = [old_span(number) for number in range(1, SPANS + 1)] + [old_reward()]
    assert [msgspec.structs.replace(span, sequence=0) for span in spans] == expected
    assert await store.spans.count(SpanQuery(names=("span 7",), since_ns=7, until_ns=8)) == 1
    assert [reward.value for reward in await store.spans.rewards(["done"])] == [0.5]
    found = await store.statistics()
    assert (found.spans, found.attempts) == (SPANS + 1, 1)
    assert found.span_bytes == sum(len(msgspec.msgpack.encode(span)) for span in expected)
    assert [one.id for one in (await store.rollouts.list(RolloutQuery())).items] == ["done", "waits"]


async def test_a_file_of_the_first_release_is_migrated_and_copied_aside(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    async with SqliteStore(path, clock=ManualClock()) as store:
        await check_everything(store)
        (lease,) = await store.rollouts.lease("worker")
        assert lease.rollout.id == "waits"
    copy = tmp_path / "store.db.v1.bak"
    with sqlite3.connect(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT max(version) FROM agl_migrations").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM spans").fetchone() == (SPANS + 1,)
    connection.close()
    assert copies(tmp_path) == ["store.db.v1.bak"]


async def test_an_earlier_copy_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    (tmp_path / "store.db.v1.bak").write_text("mine")
    async with SqliteStore(path):
        pass
    assert (tmp_path / "store.db.v1.bak").read_text() == "mine"
    assert (tmp_path / "store.db.v1.2.bak").exists()


async def test_what_a_killed_migration_left_of_its_copy_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    (tmp_path / "store.db.v1.part").write_text("half")
    async with SqliteStore(path):
        pass
    assert copies(tmp_path) == ["store.db.v1.bak"]
    with sqlite3.connect(tmp_path / "store.db.v1.bak") as connection:
        assert connection.execute("SELECT count(*) FROM spans").fetchone() == (SPANS + 1,)
    connection.close()


async def test_a_new_or_current_file_is_not_copied(tmp_path: Path) -> None:
    for _ in range(2):
        async with SqliteStore(tmp_path / "store.db"):
            pass
    assert copies(tmp_path) == []


STATEMENTS = len(MIGRATIONS[1].split(";\n"))


@pytest.mark.parametrize("failing", range(STATEMENTS))
async def test_a_migration_that_fails_at_any_statement_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    statements = MIGRATIONS[1].split(";\n")
    statements[failing] = "SELECT no_such_function()"
    with monkeypatch.context() as patch:
        patch.setattr(
            "agentlightning.store._sqlite_schema.MIGRATIONS", (MIGRATIONS[0], ";\n".join(statements))
        )
        with pytest.raises(StoreUnavailable):
            await SqliteStore(path).__aenter__()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT max(version) FROM agl_migrations").fetchone() == (1,)
    connection.close()
    async with SqliteStore(path, clock=ManualClock()) as store:
        await check_everything(store)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from agentlightning.store import SqliteStore, _sqlite_schema
real = _sqlite_schema._span_name
calls = 0
def dying(body):
    global calls
    calls += 1
    if calls == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(body)
_sqlite_schema._span_name = dying
asyncio.run(SqliteStore(Path(sys.argv[1])).__aenter__())
"""


async def test_a_migration_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(path))
    assert await process.wait() == -signal.SIGKILL
    async with SqliteStore(path, clock=ManualClock()) as store:
        await check_everything(store)


OPENED = """
import asyncio, sys
from pathlib import Path
from agentlightning.store import SqliteStore
from agentlightning.types import RolloutRequest
async def enqueue():
    async with SqliteStore(Path(sys.argv[1])) as store:
        await store.rollouts.enqueue([RolloutRequest(task=1)])
asyncio.run(enqueue())
"""


async def test_processes_that_open_an_old_file_at_once_migrate_it_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", OPENED, str(path)) for _ in range(3)
    ]
    assert [await process.wait() for process in started] == [0, 0, 0]
    assert len(copies(tmp_path)) == 1
    async with SqliteStore(path) as store:
        assert len((await store.rollouts.list()).items) == 5


async def test_a_key_of_an_old_file_is_still_known(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    async with SqliteStore(path):
        pass
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT key, digest, ids FROM keys").fetchall() == [
            ("k", b"digest", '["waits"]')
        ]
    connection.close()
