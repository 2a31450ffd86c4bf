"""What cannot be stored is refused at the edge, by every backend alike."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentlightning.errors import Conflict, InvalidReward, LimitExceeded, StoreUnavailable
from agentlightning.store import MemoryStore, SpanQuery, SqliteStore, Store
from agentlightning.types import (
    MetricPoint,
    RolloutConfig,
    RolloutRequest,
    Run,
    RunKind,
    RunStatus,
    Span,
    SpanSource,
    reward_span,
)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store.db")
    async with made:
        yield made


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("task", "error", "reason"),
    [
        (object(), TypeError, "JSON"),
        ({"a": 2**70}, ValueError, "cannot be stored"),
        ({"a": "\ud800"}, ValueError, "cannot be stored"),
        (nested(10_000), ValueError, "flatten it"),
        (nested(900), ValueError, "flatten it"),
        ([{"a": [nested(199)]}], ValueError, "200 levels"),
        ({"a": [{"b": math.inf}]}, ValueError, r"inf at \.task\.a\[0\]\.b"),
    ],
)
async def test_a_task_that_is_no_json_is_refused(
    store: Store, task: object, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        await store.rollouts.enqueue([RolloutRequest(task=task)])
    assert (await store.rollouts.list()).items == ()


async def test_what_is_nested_less_deep_is_stored(store: Store) -> None:
    wide = [[number, {"text": "é\u0081\u0091" * 50}] for number in range(300)]
    tasks = [nested(190), {"a": nested(190)}, wide]
    rollouts = await store.rollouts.enqueue([RolloutRequest(task=task) for task in tasks])
    assert [(await store.rollouts.get(rollout.id)).task for rollout in rollouts] == tasks


async def test_a_large_finite_number_is_no_infinity(store: Store) -> None:
    (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=[1.7e308, -1.7e308])])
    read = await store.rollouts.get(rollout.id)
    assert read.task == [1.7e308, -1.7e308]


@pytest.mark.parametrize(
    "request_",
    [
        RolloutRequest(task=0, config=RolloutConfig(max_attempts=0)),
        RolloutRequest(task=0, config=RolloutConfig(timeout_s=0.0)),
        RolloutRequest(task=0, config=RolloutConfig(timeout_s=math.nan)),
        RolloutRequest(task=0, priority=2**63),
        RolloutRequest(task=0, group="\ud800"),
    ],
)
async def test_an_impossible_request_is_refused(store: Store, request_: RolloutRequest) -> None:
    with pytest.raises(ValueError, match=r"must be|64 bits|surrogates"):
        await store.rollouts.enqueue([RolloutRequest(task=1), request_])
    assert (await store.rollouts.list()).items == ()


@pytest.mark.parametrize("rollout_id", ["", "x" * 201])
async def test_an_id_of_no_sensible_length_is_refused(store: Store, rollout_id: str) -> None:
    with pytest.raises(LimitExceeded, match="characters"):
        await store.rollouts.enqueue([RolloutRequest(task=0, id=rollout_id)])


async def test_odd_ids_are_ids(store: Store) -> None:
    ids = ["../x", "a\u0000b", "a\u0000", "a", "A", "ünï", "'; DROP TABLE rollouts; --"]
    await store.rollouts.enqueue([RolloutRequest(task=number, id=name) for number, name in enumerate(ids)])
    assert [(await store.rollouts.get(name)).task for name in ids] == list(range(len(ids)))


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, math.nan, math.inf])
async def test_a_lease_needs_a_time_to_live(store: Store, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        await store.rollouts.lease("worker", ttl_s=ttl_s)


@pytest.mark.parametrize("cursor", ["", "-1", "next", "1" * 30, "\u0661"])
async def test_a_cursor_that_no_page_gave_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await store.rollouts.list(cursor=cursor)
    with pytest.raises(ValueError, match="cursor"):
        await store.spans.page(SpanQuery(), cursor=cursor)


async def test_a_reward_of_unknown_source_is_refused(store: Store) -> None:
    await store.rollouts.enqueue([RolloutRequest(task=0)])
    (lease,) = await store.rollouts.lease("worker")
    span = reward_span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id="1" * 16,
        trace_id="0" * 32,
        time_ns=0,
        value=1.0,
    )
    span.attributes["agl.reward.source"] = "nobody"
    with pytest.raises(InvalidReward, match="nobody"):
        await store.spans.append([span])


async def test_appending_nothing_is_nothing(store: Store) -> None:
    assert (await store.spans.append([])).stored == 0


async def test_a_step_wider_than_64_bits_is_refused(store: Store) -> None:
    await store.runs.create(
        Run(
            id="r",
            kind=RunKind.TRAIN,
            algorithm="apo",
            status=RunStatus.RUNNING,
            config={},
            seed=0,
            created_at=0.0,
            updated_at=0.0,
        )
    )
    points = [MetricPoint(name="loss", step=step, value=0.0, time=0.0) for step in (1, 2**63)]
    with pytest.raises(ValueError, match="64 bits"):
        await store.runs.log("r", points=points)
    assert await store.runs.metrics("r") == []


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.__aexit__()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.rollouts.enqueue([RolloutRequest(task=0)])
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.rollouts.list()
    await store.__aenter__()


async def test_a_cancelled_call_leaves_the_store_usable(store: Store) -> None:
    calls = [asyncio.create_task(store.rollouts.lease("worker", wait_s=60.0)) for _ in range(8)]
    assert await store.rollouts.lease("other") == []
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await store.rollouts.enqueue([RolloutRequest(task=0)])
    assert len(await store.rollouts.lease("worker")) == 1


async def test_threads_with_loops_of_their_own_share_a_store(store: Store) -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        requests = [RolloutRequest(task=number, id=f"{name}-{number}") for number in range(15)]
        await store.rollouts.enqueue(requests)
        while leases := await store.rollouts.lease(name, limit=2):
            for lease in leases:
                await store.spans.append([_span(lease.rollout.id, lease.attempt.id, n) for n in range(3)])
                await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
                done.append(lease.rollout.id)

    threads = [threading.Thread(target=lambda name=name: asyncio.run(work(name))) for name in "abcd"]
    for thread in threads:
        thread.start()
    ids = [f"{name}-{number}" for name in "abcd" for number in range(15)]
    while len(await store.rollouts.completions(limit=100)) < len(ids):
        await store.rollouts.completions(after=len(done), wait_s=0.05)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(done) == sorted(ids)
    spans = (await store.spans.page(SpanQuery(rollout_ids=tuple(ids)))).items
    assert [span.sequence for span in spans] == [1, 2, 3] * len(ids)


def _span(rollout_id: str, attempt_id: str, number: int) -> Span:
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        span_id=f"{number:016x}",
        trace_id="0" * 32,
        name="span",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=number,
        end_ns=number,
    )


async def test_an_id_that_is_drawn_twice_overwrites_nothing() -> None:
    async with MemoryStore(new_id=lambda: "same") as store:
        await store.rollouts.enqueue([RolloutRequest(task="first")])
        with pytest.raises(Conflict, match="drawn twice"):
            await store.rollouts.enqueue([RolloutRequest(task="second")])
        assert [rollout.task for rollout in (await store.rollouts.list()).items] == ["first"]
