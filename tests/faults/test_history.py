"""What concurrent clients hear of one rollout fits into one order, on every backend; what does not is found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agentlightning.store import MemoryStore, Store, open_store
from faults.broken_stores import BrokenStore
from faults.history import Call, History, linearizable, record
from faults.invariants import Violation

CLIENTS = 8


async def recorded(stores: Sequence[Store], *, calls: int) -> History:
    async with AsyncExitStack() as stack:
        for store in stores:
            await stack.enter_async_context(store)
        return await record(stores, calls=calls, seed=1)


def call(
    verb: str, called: int, returned: int, result: object, *, attempt: int = 1, detail: str = ""
) -> Call:
    return Call(0, verb, attempt, attempt, detail, result, called, returned)


async def test_eight_connections_to_one_file_see_one_order(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    counts = (await recorded([open_store(url) for _ in range(CLIENTS)], calls=1500)).check()
    heard = {"heartbeat alive", "heartbeat lost", "heartbeat cancelled", "finish succeeded", "finish queued"}
    assert (
        heard | {"finish lost", "append stored", "append late", "append duplicate", "lease"} <= counts.keys()
    )


async def test_eight_clients_of_one_store_see_one_order(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    assert (await recorded([store] * CLIENTS, calls=3000)).check().total() >= 3000


@pytest.mark.parametrize(
    "fault", ["finish ignores fencing", "heartbeat revives", "get is behind", "lease hands out twice"]
)
async def test_a_broken_store_has_a_history_without_order(fault: str) -> None:
    store: Store = BrokenStore(MemoryStore(), fault)  # type: ignore[assignment]
    history = await recorded([store] * CLIENTS, calls=3000)
    with pytest.raises(Violation, match="no order explains"):
        history.check()


def test_calls_that_overlap_may_take_effect_in_either_order() -> None:
    lease, finish = call("lease", 0, 1, 1), call("finish", 2, 9, "succeeded", detail="done")
    assert linearizable([lease, finish, call("get", 3, 4, ("running", 1))])
    assert linearizable([lease, finish, call("get", 3, 4, ("succeeded", 1))])


def test_what_has_returned_is_seen_by_every_later_call() -> None:
    lease, finish = call("lease", 0, 1, 1), call("finish", 2, 3, "succeeded", detail="done")
    assert linearizable([lease, finish, call("get", 4, 5, ("succeeded", 1))])
    assert not linearizable([lease, finish, call("get", 4, 5, ("running", 1))])


def test_an_attempt_ends_once() -> None:
    lease = call("lease", 0, 1, 1)
    one, other = (call("finish", 2, 9, "succeeded", detail=detail) for detail in ("done", "done otherwise"))
    assert linearizable([lease, one, one])
    assert not linearizable([lease, one, other])
