"""Nothing is kept that nobody needs: payloads twice, keys after a day, leases whose caller went away."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.errors import Conflict, StoreUnavailable
from agentlightning.store import MemoryStore, Retention, SpanQuery, SqliteStore, Store
from agentlightning.testing import ManualClock
from agentlightning.types import AttemptStatus, Lease, RolloutRequest, Span, SpanSource

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
ATTRIBUTES = st.dictionaries(st.text(max_size=5), st.tuples(JSON, st.sampled_from([0, 10, 5000, 9000])))


async def leased(store: Store, *, run_id: str | None = None) -> Lease:
    await store.rollouts.enqueue([RolloutRequest(task=0, run_id=run_id)])
    (lease,) = await store.rollouts.lease("worker")
    return lease


def span(lease: Lease, number: int, /, **attributes: object) -> Span:
    return Span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id=f"{number:016x}",
        trace_id="0" * 32,
        name="span",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=number,
        end_ns=number,
        attributes=attributes,
    )


def blobs(path: Path) -> list[int]:
    """Sizes of the payloads that are stored apart."""
    with sqlite3.connect(path) as connection:
        sizes = [row[0] for row in connection.execute("SELECT length(body) FROM blobs ORDER BY 1")]
    connection.close()
    return sizes


async def test_the_same_large_payload_is_stored_once_until_the_last_that_uses_it_is_trimmed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    shared, own = "x" * 20_000, "y" * 30_000
    async with SqliteStore(path) as store:
        leases = [await leased(store) for _ in range(3)]
        for number, lease in enumerate(leases):
            more = {"own": own} if number == 0 else {}
            await store.spans.append([span(lease, n, text=shared, **more) for n in range(2)])
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        assert blobs(path) == [20_003, 30_003]
        await store.trim(Retention(max_rollouts=2))
        assert blobs(path) == [20_003]
        (last,) = (await store.spans.page(SpanQuery(attempt_ids=(leases[2].attempt.id,)), limit=1)).items
        assert last.attributes == {"text": shared}
        lease = await leased(store)
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        await store.trim(Retention(max_rollouts=0))
        assert blobs(path) == []


async def test_small_spans_and_small_attributes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path) as store:
        lease = await leased(store)
        many = {f"part {number}": "x" * 4000 for number in range(6)}
        await store.spans.append([span(lease, 1, text="x" * 15_000), span(lease, 2, **many)])
        assert blobs(path) == []


@settings(max_examples=60, deadline=None)
@given(ATTRIBUTES)
def test_attributes_of_any_size_come_back_as_they_were(drawn: dict[str, tuple[object, int]]) -> None:
    attributes = {name: [value, "z" * padding] for name, (value, padding) in drawn.items()}

    async def there_and_back() -> Span:
        async with MemoryStore() as store:
            await store.spans.append([span(await leased(store), 1, **attributes)])
            (found,) = (await store.spans.page(SpanQuery())).items
            return found

    found = asyncio.run(there_and_back())
    assert found.attributes == attributes
    assert list(found.attributes) == list(attributes)
    assert repr(found.attributes) == repr(attributes)  # 1 is not 1.0, nor True


async def test_a_payload_that_is_missing_is_damage_and_not_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore(path) as store:
        await store.spans.append([span(await leased(store), 1, text="x" * 20_000)])
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM blobs")
        connection.close()
        with pytest.raises(StoreUnavailable, match="text"):
            await store.spans.page(SpanQuery())


@pytest.mark.parametrize("name", ["memory", "sqlite"])
async def test_a_key_is_forgotten_after_a_day(tmp_path: Path, name: str) -> None:
    clock = ManualClock()

    def opened() -> Store:
        return store if name == "memory" else SqliteStore(tmp_path / "store.db", clock=clock)

    store: Store = MemoryStore(clock=clock)
    async with opened() as first:
        await first.rollouts.enqueue([RolloutRequest(task=0)], idempotency_key="k")
        clock.advance(80_000.0)
        await first.rollouts.enqueue([RolloutRequest(task=0)], idempotency_key="younger")
    clock.advance(10_000.0)
    async with opened() as second:
        await second.sweep()  # the first write since it was opened
        for _ in range(1000):
            try:
                await second.rollouts.enqueue([RolloutRequest(task=1)], idempotency_key="k")
                break
            except Conflict:
                await asyncio.sleep(0.01)
        with pytest.raises(Conflict, match="younger"):
            await second.rollouts.enqueue([RolloutRequest(task=1)], idempotency_key="younger")
        assert len((await second.rollouts.list()).items) == 3


async def test_a_lease_whose_caller_was_cancelled_goes_back_into_the_queue(tmp_path: Path) -> None:
    armed, committing, cancelled = threading.Event(), threading.Event(), threading.Event()

    def clock() -> float:  # asked by the writer when it has begun
        if armed.is_set():
            armed.clear()
            committing.set()
            cancelled.wait(20.0)
        return 0.0

    async with SqliteStore(tmp_path / "store.db", clock=clock, durability="full") as store:
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=0)])
        armed.set()
        call = asyncio.create_task(store.rollouts.lease("worker", ttl_s=3600.0))
        await asyncio.to_thread(committing.wait, 20.0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        cancelled.set()
        (lease,) = await store.rollouts.lease("other", wait_s=20.0)
        assert (lease.rollout.id, lease.attempt.sequence) == (rollout.id, 2)
        first, _ = await store.rollouts.attempts([rollout.id])
        assert first.status is AttemptStatus.LOST


async def test_a_lease_that_was_cancelled_on_its_way_out_of_the_callers_loop_goes_back(
    tmp_path: Path,
) -> None:
    async with SqliteStore(tmp_path / "store.db") as store:
        for number in range(200):  # who writes on and on gives way to others every few milliseconds
            for _ in range(number):
                await store.rollouts.enqueue([RolloutRequest(task=0, priority=-1)])
            (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=number)])
            time.sleep(0.0002)  # noqa: ASYNC251 - two tasks right after one another are a crowd, for the thread
            call = asyncio.create_task(store.rollouts.lease("worker", ttl_s=3600.0))
            asyncio.get_running_loop().call_soon(call.cancel)
            (outcome,) = await asyncio.gather(call, return_exceptions=True)
            if isinstance(outcome, asyncio.CancelledError):
                (lease,) = await store.rollouts.lease("other", wait_s=20.0)
                assert (lease.rollout.id, lease.attempt.sequence) == (rollout.id, 2)
                return
        raise AssertionError("it never gave way")
