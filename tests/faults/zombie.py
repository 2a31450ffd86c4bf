"""A worker that is stopped in the middle of its work, wakes when it has long been replaced, and goes on regardless.

python -m faults.zombie URL
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from agentlightning.cli._stores import store_at
from agentlightning.errors import LeaseLost
from agentlightning.plugins import load_plugins
from faults import requests

if TYPE_CHECKING:
    from agentlightning.store import Store
    from faults.services import Service

_BEAT_S = 0.05
_STUCK_S = 1.0
TTL_S = 1.0


class Said(msgspec.Struct, frozen=True):
    """What the store told the zombie: how each of its writes ended."""

    heartbeat: str
    late: int
    finish: str


class Zombie:
    """The process; a context manager. It holds a lease when the block begins."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __enter__(self) -> Self:
        path = os.pathsep.join(
            [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.zombie", self._service.url],
            stdout=subprocess.PIPE,
            env=os.environ | self._service.environment | {"PYTHONPATH": path},
        )
        self._beat()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    async def stop(self, store: Store) -> None:
        """Stops it where it does not hold the lock of a file, with which it would stop everybody."""
        while True:
            self._process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.wait_for(store.sweep(), _STUCK_S)
            except TimeoutError:
                self._process.send_signal(signal.SIGCONT)
                await asyncio.to_thread(self._beat)
            else:
                return

    async def wake(self) -> Said:
        """Lets it go on; what it heard."""
        self._process.send_signal(signal.SIGCONT)
        output, _ = await asyncio.to_thread(self._process.communicate)
        return msgspec.json.decode(output.splitlines()[-1], type=Said)

    def _beat(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == b"beat\n", f"the zombie did not live long enough: {line!r}"


async def _main(url: str) -> None:
    async with store_at(url, load_plugins()) as store:
        (lease,) = await store.rollouts.lease("zombie", ttl_s=TTL_S, wait_s=30.0)
        attempt = lease.attempt
        while True:
            try:
                await store.rollouts.heartbeat(attempt.id, token=attempt.token, ttl_s=TTL_S)
            except LeaseLost:
                break
            os.write(1, b"beat\n")
            await asyncio.sleep(_BEAT_S)
        appended = await requests.append(store, attempt.id, 1, attempt.token)
        try:
            await requests.finish(store, attempt.id, attempt.token, succeeds=True)
        except LeaseLost:
            finish = "LeaseLost"
        else:
            finish = "taken"
        os.write(1, msgspec.json.encode(Said("LeaseLost", appended.late, finish)) + b"\n")


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
