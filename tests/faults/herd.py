"""A herd: many workers in several processes compete for one queue; none may get what another has.

python -m faults.herd URL NAME WORKERS
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agentlightning.store import RolloutQuery, open_store
from agentlightning.types import RolloutRequest, RolloutStatus
from faults.invariants import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.store import Store

_PROCESSES = 4
_BATCH = 1000


class Said(msgspec.Struct, frozen=True):
    """What one process tells at its end.

    Attributes:
        leased: Attempts in the order in which its workers got them.
        waits_s: How long each call that got work had waited for it, in seconds.
        by_worker: Rollouts that each of its workers did.
    """

    leased: list[str]
    waits_s: list[float]
    by_worker: list[int]


@dataclass(frozen=True)
class HerdReport:
    """What a herd did.

    Attributes:
        longest_wait_s: Longest time that a call for work took.
        fewest: Rollouts that the unluckiest worker got; most: and the luckiest.
    """

    workers: int
    rollouts: int
    seconds: float
    rollouts_per_s: float
    median_wait_s: float
    longest_wait_s: float
    fewest: int
    most: int


def run_herd(*, workers: int, rollouts: int) -> HerdReport:
    """Lets a herd loose on a fresh file.

    Raises:
        Violation: Two workers got one rollout, or some were never done.
    """
    with tempfile.TemporaryDirectory(prefix="agl-herd-") as folder:
        url = f"sqlite:///{folder}/store.db"
        asyncio.run(_fill(url, rollouts))
        began = time.monotonic()
        said = _loose(url, workers)
        seconds = time.monotonic() - began
        asyncio.run(_check(url, rollouts))
    leased = Counter(name for one in said for name in one.leased)
    require(
        leased.total() == len(leased) == rollouts, "leased twice or never", leased.most_common(3), len(leased)
    )
    waits_s = [wait_s for one in said for wait_s in one.waits_s]
    shares = [share for one in said for share in one.by_worker]
    return HerdReport(
        workers=workers,
        rollouts=rollouts,
        seconds=round(seconds, 2),
        rollouts_per_s=round(rollouts / seconds, 1),
        median_wait_s=round(statistics.median(waits_s), 4),
        longest_wait_s=round(max(waits_s), 4),
        fewest=min(shares),
        most=max(shares),
    )


async def _fill(url: str, rollouts: int) -> None:
    async with open_store(url) as store:
        for start in range(0, rollouts, _BATCH):
            tasks = range(start, min(start + _BATCH, rollouts))
            await store.rollouts.enqueue([RolloutRequest(task=task) for task in tasks])


async def _check(url: str, rollouts: int) -> None:
    async with open_store(url) as store:
        done = RolloutQuery(statuses=(RolloutStatus.SUCCEEDED,))
        found = (await store.rollouts.list(done, limit=rollouts + 1)).items
        require(len(found) == rollouts, "not all were done", len(found), rollouts)
        cursors = [each.cursor for each in await store.rollouts.completions(limit=rollouts + 1)]
        require(cursors == list(range(1, rollouts + 1)), "gaps in completions")


def _loose(url: str, workers: int) -> Sequence[Said]:
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "faults.herd", url, f"p{number}", str(workers // _PROCESSES)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        for number in range(_PROCESSES)
    ]
    outputs = [process.communicate()[0] for process in processes]
    require(not any(process.returncode for process in processes), "a worker process failed; see above")
    return [msgspec.json.decode(output, type=Said) for output in outputs]


async def _work(store: Store, worker: str, said: Said) -> None:
    count = 0
    while True:
        began = time.monotonic()
        leases = await store.rollouts.lease(worker, ttl_s=60.0)
        if not leases:
            break
        said.waits_s.append(time.monotonic() - began)
        for lease in leases:
            said.leased.append(lease.attempt.rollout_id)
            await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token, ttl_s=60.0)
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
            count += 1
    said.by_worker.append(count)


async def _main(url: str, name: str, workers: str) -> None:
    said = Said([], [], [])
    async with open_store(url) as store:
        await asyncio.gather(*(_work(store, f"{name}.{number}", said) for number in range(int(workers))))
    os.write(1, msgspec.json.encode(said))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
