"""What was acknowledged survives `kill -9`, and nothing happens twice."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

from agentlightning.store import RolloutQuery, SpanQuery, Store, open_store
from agentlightning.types import AttemptStatus, Rollout, RolloutStatus

KILLS = 12
WRITER = Path(__file__).with_name("crashing_writer.py")


def write_until_killed(url: str, name: str, *, lines: int) -> list[list[str]]:
    """Kills a writer after it has acknowledged so many lines; returns all that it has."""
    writer = subprocess.Popen([sys.executable, str(WRITER), url, name], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout as output:
        said = [output.readline() for _ in range(lines)]
        writer.kill()
        said += output.readlines()
    writer.wait()
    return [line.decode().split() for line in said if line.endswith(b"\n")]


async def everything(store: Store) -> list[Rollout]:
    found: list[Rollout] = []
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(RolloutQuery(), limit=1000, cursor=cursor)
        found += page.items
        cursor = page.cursor
        if cursor is None:
            return found


async def test_nothing_acknowledged_is_lost_when_writers_are_killed(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    said: list[list[str]] = []
    for kill in range(KILLS):
        lines = chance.randrange(1, 400)
        said += await asyncio.to_thread(write_until_killed, url, f"writer-{kill}", lines=lines)
        with sqlite3.connect(file) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], f"seed {seed}"
        connection.close()
    async with open_store(url) as store:
        rollouts = {rollout.id: rollout for rollout in await everything(store)}
        attempts = await store.rollouts.attempts(list(rollouts))
        for verb, name in said:
            if verb == "enqueued":
                assert name in rollouts, f"seed {seed}"
            elif verb == "finished":
                assert (rollouts[name].status, rollouts[name].output) == (RolloutStatus.SUCCEEDED, name), (
                    f"seed {seed}"
                )
            else:
                spans = (await store.spans.page(SpanQuery(attempt_ids=(name,), include_late=True))).items
                assert [span.sequence for span in spans] == [1, 2, 3, 4, 5], f"seed {seed}"
        successes = Counter(each.rollout_id for each in attempts if each.status is AttemptStatus.SUCCEEDED)
        assert set(successes.values()) == {1}, f"seed {seed}"
        cursors = [completion.cursor for completion in await store.rollouts.completions(limit=10**6)]
        assert cursors == list(range(1, len(cursors) + 1)), f"seed {seed}"
    assert len(said) > KILLS


async def test_every_lease_of_a_killed_worker_is_free_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    await asyncio.to_thread(write_until_killed, url, "writer", lines=50)
    async with open_store(url) as store:
        query = RolloutQuery(statuses=(RolloutStatus.RUNNING,))
        running = {rollout.id for rollout in (await store.rollouts.list(query)).items}
        taken: set[str] = set()
        while not running <= taken:
            leases = await store.rollouts.lease("heir", limit=1000, wait_s=30.0)
            assert leases
            taken |= {lease.rollout.id for lease in leases}
