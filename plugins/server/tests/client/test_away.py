"""A server that is away: calls wait, spans wait on disk, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agentlightning.credentials import Scope
from agentlightning.errors import LimitExceeded, StoreUnavailable, Unauthorised
from agentlightning.store import AppendResult, SpanQuery, Store
from agentlightning.testing import FaultProxy, Faults
from agentlightning.types import Lease, RolloutRequest, RolloutStatus, Span, SpanSource
from lightning_plugin_server import HttpStore
from lightning_plugin_server.testing import RunningServer

AWAY = Faults(refuse=True)
Client = Callable[..., HttpStore]


async def leased(inside: Store) -> Lease:
    await inside.rollouts.enqueue([RolloutRequest(task="work")])
    (taken,) = await inside.rollouts.lease("worker", ttl_s=600)
    return taken


def spans(held: Lease, *numbers: int, text: str = "") -> list[Span]:
    return [
        Span(
            rollout_id=held.rollout.id,
            attempt_id=held.attempt.id,
            span_id=f"{number:016x}",
            trace_id="1" * 32,
            name="call",
            operation="chat",
            source=SpanSource.EMIT,
            start_ns=number,
            end_ns=number + 1,
            attributes={"text": text},
        )
        for number in numbers
    ]


async def stored(inside: Store, held: Lease) -> list[int]:
    """Numbers of the attempt's spans, in their order; late ones do not count."""
    page = await inside.spans.page(SpanQuery(attempt_ids=(held.attempt.id,)))
    return [int(span.span_id, 16) for span in page.items]


async def until(true: Callable[[], bool]) -> None:
    """Waits for something that other threads do."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - they set no event
            await asyncio.sleep(0.01)


async def arrived(inside: Store, held: Lease, count: int) -> list[int]:
    """The same, once there are so many."""
    async with asyncio.timeout(20):
        while len(found := await stored(inside, held)) < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    return found


async def brought(folder: Path) -> None:
    """Returns once nothing waits on disk: the server has spans a moment before their sender knows of it."""
    async with asyncio.timeout(20):
        while any(file.stat().st_size for file in spools(folder)):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)


def go_away(proxy: FaultProxy) -> None:
    proxy.faults = AWAY
    proxy.cut()


def come_back(proxy: FaultProxy) -> None:
    proxy.faults = Faults()


def spools(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.spool"))


def refused(folder: Path) -> list[Path]:
    return list(folder.rglob("refused.jsonl"))


async def test_a_call_waits_until_the_server_is_back(
    client: Client, proxy: FaultProxy, inside: Store
) -> None:
    async with client(proxy.url) as store:
        go_away(proxy)
        enqueuing = asyncio.create_task(store.rollouts.enqueue([RolloutRequest(task=1)]))
        await until(lambda: proxy.broken >= 3)
        come_back(proxy)
        (rollout,) = await enqueuing
    assert (await inside.rollouts.get(rollout.id)).task == 1


async def test_a_call_is_given_up_with_advice_when_the_patience_is_over(
    client: Client, proxy: FaultProxy
) -> None:
    async with client(proxy.url, patience_s=0.1) as store:
        go_away(proxy)
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1.*start `agl serve` there"):
            await store.rollouts.enqueue([RolloutRequest(task=1)])


async def test_a_server_that_says_nothing_is_given_up(
    client: Client, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_plugin_server.client._transport._SILENCE_S", 0.1)
    async with client(proxy.url, patience_s=0.2) as store:
        proxy.faults = Faults(stall=True)
        proxy.cut()
        with pytest.raises(StoreUnavailable, match="broke off"):
            await store.statistics()


async def test_opening_says_that_nothing_answers(
    client: Client, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_plugin_server.client._store._OPENING_S", 0.1)
    go_away(proxy)
    store = client(proxy.url)
    with pytest.raises(StoreUnavailable, match="start one there with `agl serve`, or check the URL"):
        await store.__aenter__()
    come_back(proxy)
    async with store:
        assert await store.sweep() == 0


async def test_calls_under_way_end_when_the_store_is_closed(client: Client, proxy: FaultProxy) -> None:
    store = client(proxy.url)
    async with store:
        waiting = asyncio.create_task(store.rollouts.lease("worker", wait_s=60))
        connections = proxy.connections
        await store.sweep()  # over another connection: the first one is held
        while proxy.connections == connections:
            await store.sweep()
    with pytest.raises(StoreUnavailable, match="not open"):
        await waiting


async def test_spans_wait_on_disk_and_arrive_in_order_when_the_server_is_back(
    client: Client, proxy: FaultProxy, inside: Store, tmp_path: Path
) -> None:
    held = await leased(inside)
    async with client(proxy.url, patience_s=0.05) as store:
        go_away(proxy)
        first = await store.spans.append(spans(held, 1, 2), token=held.attempt.token)
        assert first == AppendResult(stored=0, spooled=2)
        for number in range(3, 9):
            assert (await store.spans.append(spans(held, number))).spooled == 1
        (file,) = spools(tmp_path)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        come_back(proxy)
        assert await arrived(inside, held, 8) == list(range(1, 9))
        assert (await store.spans.append(spans(held, 9))).stored == 1
    assert await stored(inside, held) == list(range(1, 10))
    assert spools(tmp_path) == []


async def test_an_attempt_ends_after_its_spans_arrived(
    client: Client, proxy: FaultProxy, inside: Store
) -> None:
    held = await leased(inside)
    async with client(proxy.url, patience_s=10) as store:
        store._appending._address = msgspec.structs.replace(store._appending._address, spool_after_s=0.05)
        go_away(proxy)
        await store.spans.append(spans(held, 1, 2))
        finishing = asyncio.create_task(store.rollouts.finish(held.attempt.id, token=held.attempt.token))
        broken = proxy.broken
        await until(lambda: proxy.broken >= broken + 2)
        assert not finishing.done()
        come_back(proxy)
        assert (await finishing).status is RolloutStatus.SUCCEEDED
    assert await stored(inside, held) == [1, 2]


async def test_an_attempt_whose_spans_cannot_be_delivered_does_not_end(
    client: Client, proxy: FaultProxy, inside: Store
) -> None:
    held = await leased(inside)
    async with client(proxy.url, patience_s=0.05) as store:
        go_away(proxy)
        await store.spans.append(spans(held, 1))
        with pytest.raises(StoreUnavailable, match="wait on disk"):
            await store.rollouts.finish(held.attempt.id, token=held.attempt.token)
    assert (await inside.rollouts.get(held.rollout.id)).status is RolloutStatus.RUNNING


async def test_closing_delivers_what_it_can_and_the_next_process_the_rest(
    client: Client, proxy: FaultProxy, inside: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = await leased(inside)
    store = client(proxy.url, patience_s=0.05)
    async with store:
        go_away(proxy)
        await store.spans.append(spans(held, 1, 2))
    assert "wait on disk for" in caplog.text
    assert len(spools(tmp_path)) == 1
    come_back(proxy)
    async with store:
        assert await arrived(inside, held, 2) == [1, 2]
        await brought(tmp_path)
    assert spools(tmp_path) == []


async def test_a_full_spool_says_so_and_keeps_what_it_has(
    client: Client, proxy: FaultProxy, inside: Store, tmp_path: Path
) -> None:
    held = await leased(inside)
    async with client(proxy.url, patience_s=0.05, spool_mb=0.01) as store:
        go_away(proxy)
        await store.spans.append(spans(held, 1, text="x" * 5_000))
        with pytest.raises(LimitExceeded, match=r"is full.*spool_mb"):
            await store.spans.append(spans(held, 2, text="x" * 9_000))
        come_back(proxy)
        assert await arrived(inside, held, 1) == [1]
        await brought(tmp_path)
        assert (await store.spans.append(spans(held, 2, text="x" * 9_000))).stored == 1


async def test_a_spool_that_cannot_be_made_is_no_acknowledgement(
    client: Client, proxy: FaultProxy, inside: Store, tmp_path: Path
) -> None:
    held = await leased(inside)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "agentlightning").write_text("a file where a folder should be")
    async with client(proxy.url, patience_s=0.05) as store:
        go_away(proxy)
        with pytest.raises(StoreUnavailable, match="nothing can wait on disk"):
            await store.spans.append(spans(held, 1))
        come_back(proxy)
        assert (await store.spans.append(spans(held, 1))).stored == 1


async def test_refused_spans_are_put_aside_and_the_others_arrive(
    client: Client, proxy: FaultProxy, inside: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = await leased(inside)
    stray = msgspec.structs.replace(spans(held, 3)[0], attempt_id="nobody's")
    async with client(proxy.url, patience_s=0.05) as store:
        go_away(proxy)
        await store.spans.append([*spans(held, 1, 2), stray, *spans(held, 4)])
        come_back(proxy)
        assert await arrived(inside, held, 3) == [1, 2, 4]
        await until(lambda: not spools(tmp_path)[0].stat().st_size)
    (aside,) = refused(tmp_path)
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    (line,) = aside.read_text().splitlines()
    assert json.loads(line)["span"]["attempt_id"] == "nobody's"
    assert "nobody's" in json.loads(line)["reason"]
    assert "1 spans are refused" in caplog.text


async def test_spans_wait_for_the_right_key(
    client: Client, running: RunningServer, proxy: FaultProxy, inside: Store, tmp_path: Path
) -> None:
    held = await leased(inside)
    async with client(proxy.url, patience_s=0.05) as store:
        go_away(proxy)
        await store.spans.append(spans(held, 1))
    come_back(proxy)
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("a key of another server")
    async with HttpStore(f"{proxy.url}?key_file={wrong}") as store:
        with pytest.raises(Unauthorised, match="set AGL_KEY to the server's key"):
            await store.rollouts.get("any")
    assert refused(tmp_path) == []
    async with client(proxy.url):
        assert await arrived(inside, held, 1) == [1]


async def test_a_process_whose_key_does_not_reach_that_far_leaves_spans_to_others(
    client: Client, running: RunningServer, proxy: FaultProxy, inside: Store, tmp_path: Path
) -> None:
    held = await leased(inside)
    async with client(proxy.url, patience_s=0.05) as store:
        go_away(proxy)
        await store.spans.append(spans(held, 1))
    come_back(proxy)
    viewer = tmp_path / "viewer"
    viewer.touch(mode=0o600)
    viewer.write_text(running.key_for(Scope.VIEWER))
    async with HttpStore(f"{proxy.url}?key_file={viewer}") as looking:
        await until(lambda: not looking._appending._takes_over)
        assert refused(tmp_path) == []
        async with client(proxy.url):
            assert await arrived(inside, held, 1) == [1]


async def test_what_a_killed_process_left_is_brought_by_the_next(
    client: Client, running: RunningServer, proxy: FaultProxy, inside: Store, tmp_path: Path
) -> None:
    held = await leased(inside)
    (tmp_path / "lease").write_bytes(msgspec.msgpack.encode(held))
    program = textwrap.dedent(
        """
        import asyncio, sys
        import msgspec
        from agentlightning.types import Lease, Span, SpanSource
        from lightning_plugin_server import HttpStore

        held = msgspec.msgpack.decode(open("lease", "rb").read(), type=Lease)

        async def main():
            async with HttpStore(sys.argv[1] + "?patience_s=0.05") as store:
                print("open", flush=True)
                sys.stdin.readline()
                number = 0
                while True:
                    number += 1
                    span = Span(
                        rollout_id=held.rollout.id, attempt_id=held.attempt.id, span_id=f"{number:016x}",
                        trace_id="1" * 32, name="call", operation="chat", source=SpanSource.EMIT,
                        start_ns=number, end_ns=number + 1,
                    )
                    result = await store.spans.append([span])
                    print(number, result.spooled, flush=True)

        asyncio.run(main())
        """
    )
    process = subprocess.Popen(  # noqa: ASYNC220 - it is read in threads
        [sys.executable, "-c", program, proxy.url],
        cwd=tmp_path,
        env=os.environ | {"AGL_KEY": running.key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "open\n"
        go_away(proxy)
        process.stdin.write("\n")
        process.stdin.flush()
        for _ in range(20):
            line = await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGKILL)
        rest = await asyncio.to_thread(process.stdout.read)
    acknowledged = [int(one.split()[0]) for one in (line + rest).splitlines() if one.endswith(" 1")]
    assert acknowledged
    (file,) = spools(tmp_path)
    with file.open("ab") as torn:
        torn.write(b"\x10\x00\x00\x00cut off in the mid")
    come_back(proxy)
    async with client(proxy.url):
        found = await arrived(inside, held, acknowledged[-1])
        await brought(tmp_path)
    assert found[: acknowledged[-1]] == list(range(1, acknowledged[-1] + 1))
    assert spools(tmp_path) == []


async def test_the_spool_of_a_living_process_is_left_alone(
    client: Client, proxy: FaultProxy, inside: Store, tmp_path: Path
) -> None:
    held = await leased(inside)
    async with client(proxy.url, patience_s=0.05) as store:
        go_away(proxy)
        await store.spans.append(spans(held, 1))
        (file,) = spools(tmp_path)
        come_back(proxy)
        other = client(proxy.url)
        async with other:
            await other.sweep()
            await arrived(inside, held, 1)
        assert file.exists()


async def test_many_threads_share_a_store_while_the_server_comes_and_goes(
    client: Client, proxy: FaultProxy, inside: Store
) -> None:
    helds = [await leased(inside) for _ in range(4)]
    results: list[AppendResult] = []

    async with client(proxy.url, patience_s=5) as store:
        store._appending._address = msgspec.structs.replace(store._appending._address, spool_after_s=0.02)

        def work(held: Lease) -> None:
            async def append() -> list[AppendResult]:
                return [await store.spans.append(spans(held, number)) for number in range(1, 41)]

            results.extend(asyncio.run(append()))

        threads = [threading.Thread(target=work, args=(held,)) for held in helds]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            go_away(proxy)
            await asyncio.sleep(0.1)
            come_back(proxy)
            await asyncio.sleep(0.1)
        for held in helds:
            assert await arrived(inside, held, 40) == list(range(1, 41))
    assert sum(one.stored + one.spooled + one.duplicates for one in results) == 160
    assert any(one.spooled for one in results)
