"""Several processes on one file, and the threads of one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from agentlightning.store import open_store
from agentlightning.types import RolloutConfig, RolloutRequest

WORKER = """
import asyncio, sys
from agentlightning.store import open_store

async def main(url, name, wait_s):
    async with open_store(url) as store:
        print("ready", flush=True)
        while leases := await store.rollouts.lease(name, limit=3, wait_s=wait_s):
            for lease in leases:
                await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token)
                await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
                print(lease.rollout.id, flush=True)
            if wait_s:
                return

asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""

FORKING = """
import asyncio, os, sys
from agentlightning.errors import StoreUnavailable
from agentlightning.store import open_store

async def use(store):
    await store.rollouts.list()

async def main(url):
    async with open_store(url) as store:
        await use(store)
        child = os.fork()
        if not child:
            asyncio.events._set_running_loop(None)
            try:
                asyncio.new_event_loop().run_until_complete(use(store))
            except StoreUnavailable as error:
                print(error, flush=True)
                os._exit(7)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        await use(store)

asyncio.run(main(sys.argv[1]))
"""


def start(url: str, name: str, *, wait_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, url, name, str(wait_s)], stdout=subprocess.PIPE, text=True
    )


async def test_eight_processes_share_the_work_and_never_a_rollout(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(url) as store:
        rollouts = await store.rollouts.enqueue([RolloutRequest(task=number) for number in range(400)])
        workers = [start(url, f"worker {number}", wait_s=0.0) for number in range(8)]
        said = await asyncio.gather(*(asyncio.to_thread(worker.communicate) for worker in workers))
        assert [worker.returncode for worker in workers] == [0] * 8
        done = [line for out, _ in said for line in out.split() if line != "ready"]
        assert sorted(done) == sorted(rollout.id for rollout in rollouts)
        completions = await store.rollouts.completions(limit=1000)
        assert [completion.cursor for completion in completions] == list(range(1, 401))


async def test_a_worker_in_another_process_is_woken_and_so_is_who_waits_for_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(url) as store:
        worker = start(url, "worker", wait_s=30.0)
        assert worker.stdout is not None
        assert await asyncio.to_thread(worker.stdout.readline) == "ready\n"
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=0)])
        (done,) = await asyncio.wait_for(store.rollouts.wait([rollout.id]), 30.0)
        assert done.id == rollout.id
        out, _ = await asyncio.to_thread(worker.communicate)
        assert out == f"{rollout.id}\n"


async def test_work_of_a_dead_process_goes_to_a_living_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(url) as first, open_store(url) as second:
        await first.rollouts.enqueue([RolloutRequest(task=0, config=RolloutConfig(max_attempts=2))])
        (dead,) = await first.rollouts.lease("dead", ttl_s=0.05)
        (lease,) = await second.rollouts.lease("living", wait_s=20.0)
        assert (lease.rollout.id, lease.attempt.sequence) == (dead.rollout.id, 2)


def test_a_forked_child_is_refused_and_its_parent_goes_on(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path / 'store.db'}", "memory://"):
        done = subprocess.run(
            [sys.executable, "-c", FORKING, url], capture_output=True, text=True, check=True
        )
        line, code = done.stdout.splitlines()
        assert code == "7"
        assert "spawn" in line or "sqlite:///FILE" in line
