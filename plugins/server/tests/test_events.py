"""Server-sent events: completions in order, resumable, with statistics; and long polls that end when nobody waits."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec

from agentlightning.apps import Message
from agentlightning.credentials import KeyRing, Scope
from agentlightning.store import MemoryStore, Store
from agentlightning.types import RolloutRequest, RolloutStatus
from lightning_plugin_server import create_app
from lightning_plugin_server.testing import RunningServer, running_server


async def finish(store: Store, *names: str, run_id: str | None = None) -> None:
    for name in names:
        await store.rollouts.enqueue([RolloutRequest(task=name, id=name, run_id=run_id)])
        (lease,) = await store.rollouts.lease("w")
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)


async def in_flight(server: RunningServer, count: int) -> None:
    """Returns when the server answers so many requests."""
    async with asyncio.timeout(20):
        while server.app.requests_in_flight != count:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


class Events:
    """Events of a stream, one by one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._lines = response.content

    async def next(self, kind: str) -> tuple[str, object]:
        """The next event of a kind: its id and data."""
        while True:
            fields: dict[str, str] = {}
            while line := (await self._lines.readline()).decode().strip():
                name, _, value = line.partition(": ")
                fields[name] = value
            if fields.get("event") == kind:
                return fields.get("id", ""), msgspec.json.decode(fields["data"])


async def test_completions_are_streamed_and_a_new_connection_goes_on_where_the_last_one_ended() -> None:
    store = MemoryStore()
    with running_server(store) as server:
        async with store, aiohttp.ClientSession(server.url) as http:
            headers = {"x-api-key": server.key_for(Scope.VIEWER)}
            await finish(store, "a")
            async with http.get("/api/events", headers=headers) as response:
                events = Events(response)
                assert (await events.next("statistics"))[1]["rollouts"]["succeeded"] == 1
                first, completion = await events.next("completion")
                assert completion["rollout"]["id"] == "a"
                await finish(store, "b")
                assert (await events.next("completion"))[1]["rollout"]["id"] == "b"
            await finish(store, "c")
            async with http.get("/api/events", headers={**headers, "last-event-id": first}) as response:
                events = Events(response)
                found = [(await events.next("completion"))[1]["rollout"]["id"] for _ in range(2)]
                assert found == ["b", "c"]


async def test_events_of_a_run_leave_others_out() -> None:
    store = MemoryStore()
    with running_server(store) as server:
        async with store, aiohttp.ClientSession(server.url) as http:
            await finish(store, "other")
            await finish(store, "mine", run_id="r")
            headers = {"x-api-key": server.key}
            async with http.get("/api/events?run_id=r", headers=headers) as response:
                assert (await Events(response).next("completion"))[1]["rollout"]["id"] == "mine"


async def test_a_question_that_cannot_be_understood_is_refused() -> None:
    with running_server(MemoryStore()) as server:
        async with aiohttp.ClientSession(server.url) as http:
            for query in ("after=x", "since=1", "after=-1", "after=" + "9" * 30):
                async with http.get(f"/api/events?{query}", headers={"x-api-key": server.key}) as response:
                    assert response.status == 400


async def test_a_worker_that_leaves_while_it_waits_takes_no_work() -> None:
    store = MemoryStore()
    with running_server(store) as server:
        async with store, aiohttp.ClientSession(server.url, headers={"x-api-key": server.key}) as http:
            body = {"worker": "gone", "wait_s": 60}
            waiting = asyncio.create_task(http.post("/api/rollouts/lease", json=body))
            await in_flight(server, 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await in_flight(server, 0)
            await store.rollouts.enqueue([RolloutRequest(task=1, id="r")])
            assert (await store.rollouts.get("r")).status is RolloutStatus.QUEUED


async def test_long_polls_end_at_once_when_the_server_stops() -> None:
    with running_server(MemoryStore()) as server:
        async with aiohttp.ClientSession(server.url, headers={"x-api-key": server.key}) as http:
            body = {"worker": "w", "wait_s": 60}
            waiting = [asyncio.create_task(http.post("/api/rollouts/lease", json=body)) for _ in range(3)]
            await in_flight(server, 3)
            server.stop()
            answers = await asyncio.wait_for(asyncio.gather(*waiting), 20)
            assert {(answer.status, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}


async def test_a_slow_consumer_is_not_read_ahead_for() -> None:
    store = MemoryStore()
    async with store:
        await finish(store, *(f"r{n}" for n in range(250)))
        asked = 0
        completions = store.rollouts.completions

        async def counted(**arguments: object) -> object:
            nonlocal asked
            asked += 1
            return await completions(**arguments)

        store.rollouts.completions = counted
        app = create_app(store, keys=KeyRing("a key for tests only"))
        room = asyncio.Semaphore(10)
        full, left = asyncio.Event(), asyncio.Event()

        async def send(message: Message) -> None:
            if room.locked():
                full.set()
            await room.acquire()

        async def receive() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        headers = [(b"x-api-key", b"a key for tests only")]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/events",
            "query_string": b"",
            "headers": headers,
        }
        serving = asyncio.create_task(app(scope, receive, send))
        await full.wait()
        await asyncio.sleep(0)
        assert asked == 1
        left.set()
        await serving
