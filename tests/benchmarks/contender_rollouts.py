"""Our runners with an agent that does nothing: in process on any store, and `agl work` with `agl serve`. A `Worker`."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from answering import serve
from noop_agent import solve
from workload import task

from agentlightning._execution import Execution
from agentlightning.capture import Exporter, install_tracing
from agentlightning.cli._stores import store_at
from agentlightning.errors import StoreError
from agentlightning.observer import Observers
from agentlightning.plugins import load_plugins
from agentlightning.runner import Runner, RunnerConfig
from agentlightning.types import RolloutRequest, RolloutStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agentlightning.store import Store
    from agentlightning.types import Resource

TIMEOUT_S: Final = 120.0
WARM_UP: Final = 20


def rollouts(*, where: str, runners: int, count: int, idle_s: float) -> dict[str, float]:
    """Seconds from asking for `count` rollouts until all have succeeded, after up to so many seconds of idleness.

    Args:
        where: `memory`, `sqlite`, or `http`, which is a server with SQLite, and runners in a process of their own.
        runners: Rollouts at once.
    """
    return asyncio.run(_rollouts(where, runners, count, idle_s))


async def _rollouts(where: str, runners: int, count: int, idle_s: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder:
        url = "memory://" if where == "memory" else f"sqlite:///{Path(folder) / 'store.db'}"
        running = _served(url, runners) if where == "http" else _in_process(url, runners)
        async with running as store:
            await _run(store, WARM_UP)
            await asyncio.sleep(idle_s * random.random())
            return {"wall_s": await _run(store, count)}


async def _run(store: Store, count: int) -> float:
    started = time.perf_counter()
    wishes = [RolloutRequest(task=task(index)) for index in range(count)]
    ids = [rollout.id for rollout in await store.rollouts.enqueue(wishes)]
    done = await store.rollouts.wait(ids, timeout_s=TIMEOUT_S)
    taken_s = time.perf_counter() - started
    if [one.status for one in done] != [RolloutStatus.SUCCEEDED] * count:
        raise AssertionError(f"{count} rollouts were asked for, these ended: {[one.status for one in done]}")
    return taken_s


async def _no_resources(_: str | None) -> Mapping[str, Resource]:
    return {}


@asynccontextmanager
async def _in_process(url: str, runners: int) -> AsyncIterator[Store]:
    install_tracing()
    async with store_at(url, load_plugins()) as store, Exporter(store.spans) as exporter:
        runner = Runner(
            store,
            execution=Execution(solve, adapters=[], concurrency=runners),
            exporter=exporter,
            gateway=None,
            graders=[],
            resources=_no_resources,
            observers=Observers(),
            config=RunnerConfig(concurrency=runners),
        )
        serving = asyncio.create_task(runner.serve())
        try:
            yield store
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def _served(url: str, runners: int) -> AsyncIterator[Store]:
    agl = str(Path(sys.executable).with_name("agl"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    os.environ["AGL_KEY"] = secrets.token_urlsafe(32)
    target = f"{Path(__file__).with_name('noop_agent.py')}:solve"
    work = ["work", target, "--store", address, "--concurrency", str(runners), "--quiet"]
    async with _running(agl, "serve", "--store", url, "--port", str(port)):
        await _answers(address)
        async with _running(agl, *work), store_at(address, load_plugins()) as store:
            yield store


@asynccontextmanager
async def _running(*command: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*command, stdout=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def _answers(address: str) -> None:
    until = time.monotonic() + TIMEOUT_S
    host, _, port = address.removeprefix("http://").partition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            if time.monotonic() > until:
                raise StoreError(f"the server at {address} does not answer") from error
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


if __name__ == "__main__":
    serve({"rollouts": rollouts})
