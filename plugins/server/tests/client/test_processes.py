"""Servers and workers as processes of their own, killed: nothing acknowledged is lost, and nothing is there twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.store import RolloutQuery, SpanQuery, SqliteStore
from agentlightning.types import (
    FailureClass,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanSource,
)
from lightning_plugin_server import HttpStore

AGL = (sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())")
KEY = "a key for tests only"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def start(folder: Path, *arguments: str, key: str = KEY) -> Process:
    """A process of `agl`, whose words go to a file."""
    with (folder / f"{arguments[0]}.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *AGL, *arguments, cwd=folder, env={**os.environ, "AGL_KEY": key}, stdout=log, stderr=log
        )


async def end(process: Process) -> None:
    """Kills it, if it lives."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


class KillableServer:
    """`agl serve` over a file, on one port for all of its lives.

    Attributes:
        kills: How often it was killed.
    """

    def __init__(self, folder: Path) -> None:
        self.kills = 0
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: Process | None = None

    async def start(self) -> None:
        """Starts it; returns once it answers."""
        self._process = await start(
            self._folder, "serve", "--store", "sqlite:///store.db", "--port", str(self._port)
        )
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/healthz") as response:
                        if response.status == 200:
                            return
                assert self._process.returncode is None, (self._folder / "serve.log").read_text()
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Ends it without a word."""
        assert self._process is not None
        await end(self._process)
        self.kills += 1


@contextlib.asynccontextmanager
async def killable_server(folder: Path) -> AsyncIterator[KillableServer]:
    server = KillableServer(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


AGENT = """
import asyncio

async def solve(task):
    await asyncio.sleep(0.02)
    return float(task["number"] % 2)

async def endless(task):
    open("started", "w").close()
    await asyncio.Event().wait()
"""


@pytest.fixture(autouse=True)
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    monkeypatch.setenv("AGL_KEY", KEY)


class Load:
    """Everything that was acknowledged."""

    def __init__(self, store: HttpStore) -> None:
        self.store = store
        self.stopping = asyncio.Event()
        self.enqueued: set[str] = set()
        self.appended: set[tuple[str, str]] = set()
        self.finished: set[str] = set()

    async def produce(self, name: str) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            made = await self.store.rollouts.enqueue(
                [RolloutRequest(task=[name, number, n]) for n in range(3)]
            )
            self.enqueued.update(rollout.id for rollout in made)
            await asyncio.sleep(0.01)

    async def work(self, name: str) -> None:
        while not self.stopping.is_set():
            for lease in await self.store.rollouts.lease(name, limit=4, ttl_s=60, wait_s=0.5):
                attempt = lease.attempt
                spans = [
                    Span(
                        rollout_id=lease.rollout.id,
                        attempt_id=attempt.id,
                        span_id=f"{number:016x}",
                        trace_id="1" * 32,
                        name="call",
                        operation="chat",
                        source=SpanSource.EMIT,
                        start_ns=number,
                        end_ns=number + 1,
                    )
                    for number in (1, 2)
                ]
                await self.store.spans.append(spans, token=attempt.token)
                self.appended.update((attempt.id, span.span_id) for span in spans)
                await self.store.rollouts.finish(attempt.id, token=attempt.token, output=lease.rollout.task)
                self.finished.add(lease.rollout.id)


async def test_nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with killable_server(tmp_path) as server, HttpStore(server.url) as store:
        load = Load(store)
        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(load.produce(f"producer {number}"))
                group.create_task(load.work(f"worker {number}"))
            for _ in range(4):
                before = len(load.finished)
                while len(load.finished) < before + 20:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.01)
                await asyncio.sleep(chance.uniform(0, 0.1))
                await server.kill()
                await server.start()
            load.stopping.set()
    async with SqliteStore(tmp_path / "store.db") as store:
        await check(store, load)


async def check(store: SqliteStore, load: Load) -> None:
    found: dict[str, RolloutStatus] = {}
    tasks: Counter[str] = Counter()
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(RolloutQuery(), limit=1000, cursor=cursor)
        found |= {rollout.id: rollout.status for rollout in page.items}
        tasks.update(str(rollout.task) for rollout in page.items)
        cursor = page.cursor
        if cursor is None:
            break
    assert load.enqueued == found.keys()
    assert set(tasks.values()) == {1}
    assert {id_ for id_, status in found.items() if status is RolloutStatus.SUCCEEDED} == load.finished
    completed = Counter(one.rollout.id for one in await store.rollouts.completions(limit=10_000))
    assert completed == Counter(load.finished)
    attempts = await store.rollouts.attempts(sorted(found))
    assert {attempt.sequence for attempt in attempts} == {1}, "a lease was taken twice"
    page_of_spans = await store.spans.page(SpanQuery(include_late=True), limit=100_000)
    assert Counter((span.attempt_id, span.span_id) for span in page_of_spans.items) == Counter(load.appended)
    assert not any(span.late for span in page_of_spans.items)


def requests(count: int, **config: object) -> list[RolloutRequest]:
    return [
        RolloutRequest(task={"number": number}, config=RolloutConfig(**config)) for number in range(count)
    ]


async def test_all_rollouts_end_although_a_worker_is_killed(tmp_path: Path) -> None:
    async with killable_server(tmp_path) as server, HttpStore(server.url) as store:
        arguments = ("agent.py:solve", "--store", server.url, "--concurrency", "4", "--lease-ttl", "2")
        workers = [await start(tmp_path, "work", *arguments) for _ in range(2)]
        try:
            queued = await store.rollouts.enqueue(requests(200))
            done = 0
            async with asyncio.timeout(60):
                while done < 40:
                    done += len(await store.rollouts.completions(after=done, limit=40 - done, wait_s=5))
            await end(workers[0])
            ended = await store.rollouts.wait([rollout.id for rollout in queued], timeout_s=60)
            assert {rollout.status for rollout in ended} == {RolloutStatus.SUCCEEDED}
            assert len(ended) == 200
            attempts = await store.rollouts.attempts([rollout.id for rollout in queued])
            lost = [attempt for attempt in attempts if attempt.failure is not None]
            assert {attempt.failure.kind for attempt in lost if attempt.failure} <= {FailureClass.LOST}
            assert len(lost) <= 4, "more than the killed worker had"
            rewards = await store.spans.rewards([rollout.id for rollout in queued])
            assert sum(reward.value for reward in rewards) == 100
            workers[1].send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(workers[1].wait(), 30) == 0
        finally:
            for worker in workers:
                await end(worker)


async def test_a_worker_that_is_stopped_hands_back_what_is_not_done(tmp_path: Path) -> None:
    async with killable_server(tmp_path) as server, HttpStore(server.url) as store:
        (rollout,) = await store.rollouts.enqueue(requests(1))
        worker = await start(tmp_path, "work", "agent.py:endless", "--store", server.url, "--grace", "0.1")
        try:
            async with asyncio.timeout(60):
                while not (tmp_path / "started").exists():  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(0.05)
            worker.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(worker.wait(), 30) == 130
        finally:
            await end(worker)
        assert (await store.rollouts.get(rollout.id)).status is RolloutStatus.QUEUED


async def test_a_worker_with_a_runners_key_ends_when_there_is_nothing_more_to_do(tmp_path: Path) -> None:
    async with killable_server(tmp_path) as server, HttpStore(server.url) as store:
        queued = await store.rollouts.enqueue(requests(5))
        log = tmp_path / "work.log"
        key = KeyRing(KEY).issue(Credential(scope=Scope.RUNNER))
        arguments = ("agent.py:solve", "--store", server.url, "--until-idle", "0.5", "--json")
        worker = await start(tmp_path, "work", *arguments, key=key)
        assert await asyncio.wait_for(worker.wait(), 60) == 0
        assert json.loads(log.read_text().splitlines()[-1]) == {"rollouts": {"succeeded": 5}}
        ended = await store.rollouts.wait([rollout.id for rollout in queued], timeout_s=0)
    assert len(ended) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--store", "memory://"), "name one as TARGET"),
        (("agent.py:solve", "--store", "memory://"), "a store in memory has no work"),
        (("agent.py:nothing",), "has no 'nothing'"),
        (("agent.py:solve", "--store", "http://127.0.0.1:1"), "start one there with `agl serve`"),
    ],
)
async def test_a_worker_that_cannot_work_says_why(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    worker = await start(tmp_path, "work", *arguments)
    assert await asyncio.wait_for(worker.wait(), 60) in {1, 2}
    assert message in (tmp_path / "work.log").read_text()
