"""Does everything with a store as fast as it can, and says what it asked and what was acknowledged, until it is killed.

    python -m faults.writer URL NAME SEED [FAULT]

Each line on standard output is one JSON array in one write, so that a kill cannot cut it: `?` before a request, `!`
when it was acknowledged, `x` when it was refused.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import TYPE_CHECKING, Any, cast

import msgspec

from agentlightning.cli._stores import store_at
from agentlightning.errors import IllegalTransition, LeaseLost, StoreUnavailable
from agentlightning.plugins import load_plugins
from faults import requests
from faults.broken_stores import BrokenStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.store import Store
    from agentlightning.types import Lease

LANES = 6
_ENCODER = msgspec.json.Encoder()
_NAP_S = 0.05


def say(*words: object) -> None:
    """One line."""
    os.write(1, _ENCODER.encode(words) + b"\n")


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Asks again, the very same, until there is an answer."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(_NAP_S)


class Lane:
    """One of the things that a writer does at once."""

    def __init__(self, store: Store, name: str, run_id: str, chance: random.Random) -> None:
        self._store = store
        self._name = name
        self._run_id = run_id
        self._chance = chance

    async def work(self) -> None:
        """Goes round and round."""
        for number in range(10**9):
            key = f"{self._name}.{number}"
            await self.round(key)

    async def round(self, key: str) -> None:
        store, chance = self._store, self._chance
        count = chance.randint(1, 4)
        say("?", "enqueue", key, count)
        ids = [each.id for each in await insist(lambda: requests.enqueue(store, key, count))]
        say("!", "enqueue", key, ids)
        say("?", "lease", key, 4)
        leases: list[Lease] = await insist(lambda: requests.lease(store, key, 4))
        say("!", "lease", key, [lease.attempt.id for lease in leases])
        await asyncio.gather(*(self.attempt(lease) for lease in leases))
        if chance.random() < 0.2:
            await self.cancel(ids[0])
        if chance.random() < 0.3:
            say("?", "log", key, self._run_id)
            await insist(lambda: requests.log(store, key, self._run_id))
            say("!", "log", key)
        if chance.random() < 0.05:
            say("?", "publish", key)
            published = await insist(lambda: requests.publish(store, key))
            say("!", "publish", key, published.id, published.version)
        if chance.random() < 0.3:
            done = await insist(lambda: store.rollouts.wait(ids, timeout_s=0.05))
            say("!", "wait", key, [[each.id, each.status.value] for each in done])

    async def attempt(self, lease: Lease) -> None:
        store, chance = self._store, self._chance
        name, token = lease.attempt.id, lease.attempt.token
        try:
            beat = await insist(lambda: store.rollouts.heartbeat(name, token=token, ttl_s=requests.TTL_S))
            say("!", "heartbeat", name)
            if beat.cancelled:
                return
            for batch in range(chance.randint(1, 4)):
                say("?", "append", name, batch, token)
                result = await insist(lambda batch=batch: requests.append(store, name, batch, token))
                say("!", "append", name, batch, result.stored, result.late, result.duplicates, result.spooled)
            if chance.random() < 0.03:
                return  # forgotten: its lease runs out
            succeeds = chance.random() < 0.85
            say("?", "finish", name, token, succeeds)
            rollout = await insist(lambda: requests.finish(store, name, token, succeeds))
            say("!", "finish", name, rollout.status.value)
        except LeaseLost:
            say("x", "finish", name)

    async def cancel(self, rollout_id: str) -> None:
        say("?", "cancel", rollout_id)
        try:
            (rollout,) = await insist(lambda: self._store.rollouts.cancel([rollout_id]))
        except IllegalTransition:
            say("x", "cancel", rollout_id)
        else:
            say("!", "cancel", rollout_id, rollout.status.value)


async def opened(url: str) -> Store:
    """An open store; a server may be on its way back just now."""

    async def enter() -> Store:
        return await store_at(url, load_plugins()).__aenter__()

    return cast("Store", await insist(enter))


async def main(url: str, name: str, seed: str, fault: str = "") -> None:
    """Writes for ever."""
    real = await opened(url)  # never closed: it is killed
    store = cast("Store", BrokenStore(real, fault)) if fault else real
    chance = random.Random(f"{name} {seed}")
    run_id = f"run-{name}"
    say("?", "create", run_id)
    await insist(lambda: requests.create(store, run_id))
    say("!", "create", run_id)
    await asyncio.gather(*(Lane(store, f"{name}.{lane}", run_id, chance).work() for lane in range(LANES)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
