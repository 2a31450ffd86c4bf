"""Crash campaigns, in short: writers and servers are killed, nothing is lost; and a store that loses is caught."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from agentlightning.store import SqliteStore
from faults import requests
from faults.broken_stores import BrokenStore
from faults.campaign import run_campaign
from faults.invariants import Violation
from faults.ledger import Ledger
from faults.services import missing
from faults.verifier import ask_again, verify, wait_until_free

if TYPE_CHECKING:
    from agentlightning.store import Store


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", "sqlite-full", "http", "postgresql"])
def test_nothing_acknowledged_is_lost_and_nothing_happens_twice(backend: str) -> None:
    if reason := missing(backend):
        pytest.skip(reason)
    seed = random.SystemRandom().randrange(10**6)
    report = run_campaign(backend, kills=3, seed=seed, pace_s=0.5)
    assert report.kills.total() > 3
    verbs = {"enqueue", "lease", "heartbeat", "append", "finish"}
    assert verbs <= {verb for verb, count in report.operations.items() if count}, f"seed {seed}"
    assert report.found["rewards"], f"seed {seed}"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("append answers first", "spans are lost"),
        ("append drops one", "spans are lost"),
        ("finish only says so", "final|acknowledged finish"),
    ],
)
def test_a_campaign_catches_a_broken_store(fault: str, told: str) -> None:
    with pytest.raises(Violation, match=f"seed 1, .*({told})"):
        run_campaign("sqlite", kills=1000, seconds=180, seed=1, pace_s=1.0, fault=fault)


async def ask_twice(store: Store, ledger: Ledger) -> None:
    """A writer commits a request and is killed before its answer; the campaign repeats it."""
    async with store:
        for line in (b'["?", "create", "run"]', b'["?", "enqueue", "key", 3]', b'["?", "lease", "key", 2]'):
            ledger.feed(line)
        ledger.feed(b'["?", "log", "key", "run"]')
        ledger.feed(b'["?", "publish", "key"]')
        await requests.create(store, "run")
        await requests.enqueue(store, "key", 3)
        await requests.lease(store, "key", 2)
        await requests.log(store, "key", "run")
        await requests.publish(store, "key")
        assert await ask_again(store, ledger) == 5
        await wait_until_free(store)
        await verify(store, ledger)


async def test_a_request_that_was_committed_without_an_answer_is_repeated_without_a_second_effect(
    tmp_path: Path,
) -> None:
    await ask_twice(SqliteStore(tmp_path / "store.db"), Ledger())


@pytest.mark.parametrize(
    ("fault", "told"),
    [("enqueue forgets keys", "other rollouts"), ("lease forgets keys", "two effects")],
)
async def test_a_store_that_forgets_keys_is_caught(tmp_path: Path, fault: str, told: str) -> None:
    store = cast("Store", BrokenStore(SqliteStore(tmp_path / "store.db"), fault))
    with pytest.raises(Violation, match=told):
        await ask_twice(store, Ledger())
