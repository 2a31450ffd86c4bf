"""The store and real runners in simulated time: many seeds, one order per seed, and broken stores are caught."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store import MemoryStore, Store
from faults.broken_stores import BrokenStore
from faults.invariants import Violation
from faults.simulation import simulate
from faults.virtual_loop import Stuck, VirtualLoop, run_virtually

SEEDS = 200
DIGEST = """
import hashlib
from faults.simulation import simulate
lines = [line for seed in range(1000, 1010) for line in simulate(seed).trace]
print(hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def broken(fault: str) -> Any:
    def make_store(**options: Any) -> Store:
        return BrokenStore(MemoryStore(**options), fault)  # type: ignore[return-value]

    return make_store


def simulate_many(make_store: Any) -> None:
    for seed in range(100):
        simulate(seed, make_store=make_store)


def test_no_seed_breaks_a_promise() -> None:
    faults: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for seed in range(SEEDS):
        outcome = simulate(seed)
        faults += outcome.faults
        ends += outcome.ends
    # a storm in which nothing happens shows nothing
    kinds = {"crash", "clock jump", "lost request", "lost answer", "duplicate", "delay", "long delay"}
    assert kinds <= faults.keys()
    assert {"succeeded", "failed", "cancelled"} == ends.keys()
    assert ends.total() == SEEDS * 8


def test_a_seed_does_the_same_in_every_process() -> None:
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in (1, 2)
    }
    lines = [line for seed in range(1000, 1010) for line in simulate(seed).trace]
    assert digests == {hashlib.sha256("\n".join(lines).encode()).hexdigest().encode() + b"\n"}


@pytest.mark.parametrize(
    "fault",
    [
        "finish ignores fencing",
        "heartbeat revives",
        "append drops one",
        "append answers first",
        "enqueue forgets keys",
        "lease forgets keys",
        "lease hands out twice",
        "finish only says so",
    ],
)
def test_a_broken_store_is_caught_and_the_seed_is_named(fault: str) -> None:
    with pytest.raises(Violation, match=r"seed \d+: "):
        simulate_many(broken(fault))


def test_a_store_whose_clock_lags_is_caught() -> None:
    def make_store(*, clock: Any, new_id: Any) -> Store:
        return MemoryStore(clock=lambda: clock() - 1.0, new_id=new_id)

    with pytest.raises(Violation):
        simulate_many(make_store)


def test_virtual_time_jumps_to_the_next_timer() -> None:
    async def main() -> float:
        await asyncio.gather(asyncio.sleep(5000.0), asyncio.sleep(3.0))
        return asyncio.get_running_loop().time()

    assert run_virtually(main(), VirtualLoop()) == 5000.0


def test_what_waits_for_ever_is_told() -> None:
    with pytest.raises(Stuck, match="every task waits"):
        run_virtually(asyncio.Event().wait(), VirtualLoop())
