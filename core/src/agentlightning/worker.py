"""Workers: processes that run an agent on the rollouts of a store, wherever they were enqueued.

The agent is named here, never by the store: a store holds nothing to execute.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import cast

import msgspec

from agentlightning._execution import Execution
from agentlightning._loading import (
    ResourceLoader,
    build_grader,
    build_observer,
    instrument,
    store_schemes,
)
from agentlightning.capture import Exporter
from agentlightning.config import RunConfig
from agentlightning.errors import ConfigError, NotFound, StoreUnavailable
from agentlightning.gateway import Gateway, GatewayConfig, GatewayFactory
from agentlightning.jobs import agent_of
from agentlightning.observer import Event, Observer, Observers, RolloutFinished
from agentlightning.plugins import Plugins
from agentlightning.runner import Runner, RunnerConfig
from agentlightning.specs import AppSpec
from agentlightning.store import Store, open_store
from agentlightning.targets import load_target
from agentlightning.types import Mode, Rollout, RolloutStatus

__all__ = ["WorkOptions", "WorkReport", "work"]

_LOOK_S = 0.1
_WAIT_S = 5.0


class WorkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """When a worker works.

    Attributes:
        run_id: The only run whose rollouts are taken; None takes any.
        until_idle_s: End after so many seconds without work; None goes on for ever.
        grace_s: How long rollouts that are running may take to end when the worker is stopped, in seconds.
        lease_ttl_s: How long the store waits for a heartbeat before it takes the worker for dead, in seconds.
    """

    run_id: str | None = None
    until_idle_s: float | None = None
    grace_s: float = 30.0
    lease_ttl_s: float = 30.0


class WorkReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker did: rollouts by the status that they had after its attempt."""

    rollouts: dict[RolloutStatus, int]


async def work(
    config: RunConfig,
    options: WorkOptions,
    *,
    plugins: Plugins,
    stop: asyncio.Event,
    observers: Sequence[Observer] = (),
) -> WorkReport:
    """Runs the configured agent on rollouts of the configured store until it is stopped.

    Args:
        stop: Set it to take no more work; what is running may end, the rest is handed back.
        observers: Listeners besides the configured ones.

    Raises:
        ConfigError: There is no agent, the store is nobody else's, or a run's model is not served for this worker.
        StoreUnavailable: The store cannot be opened.
    """
    found = agent_of(config)
    if config.store.startswith("memory://"):
        raise ConfigError(
            "a store in memory has no work from elsewhere; name one with --store, such as http://…"
        )
    tally = _Tally()
    agent = load_target(found) if isinstance(found, str) else found
    graders = [build_grader(one, plugins) for one in config.graders]
    listeners = [tally, *observers, *(build_observer(one, plugins) for one in config.observers)]
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config.store, schemes=store_schemes(plugins)))
        gateway = await _gateway(config, store, plugins, stack)
        adapters = instrument(plugins, stack)
        exporter = await stack.enter_async_context(Exporter(store.spans))
        runner = Runner(
            store,
            execution=Execution(agent, adapters=adapters, concurrency=config.concurrency),
            exporter=exporter,
            gateway=gateway,
            graders=graders,
            resources=ResourceLoader(store, plugins),
            observers=Observers(listeners),
            config=RunnerConfig(
                concurrency=config.concurrency,
                lease_ttl_s=options.lease_ttl_s,
                model=config.model,
                agents=tuple(config.agents),
            ),
            admit=None if gateway else _Admission(store),
        )
        await _serve(runner, options, stop)
    return WorkReport(rollouts=dict(tally.counts))


async def _serve(runner: Runner, options: WorkOptions, stop: asyncio.Event) -> None:
    wait_s = _WAIT_S if options.until_idle_s is None else min(_WAIT_S, max(_LOOK_S, options.until_idle_s))
    serving = asyncio.create_task(runner.serve(run_id=options.run_id, wait_s=wait_s), name="runner")
    ending = asyncio.create_task(_end(runner, options.until_idle_s, stop), name="runner-end")
    try:
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await runner.drain(grace_s=options.grace_s)
        await serving
    finally:
        for task in (serving, ending):
            task.cancel()
        await asyncio.gather(serving, ending, return_exceptions=True)


async def _end(runner: Runner, until_idle_s: float | None, stop: asyncio.Event) -> None:
    """Returns when the worker should stop: on request, or when there was nothing to do for long enough."""
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await stop.wait()
        if until_idle_s is not None and runner.idle_s >= max(_LOOK_S, until_idle_s):
            return


async def _gateway(
    config: RunConfig, store: Store, plugins: Plugins, stack: AsyncExitStack
) -> Gateway | None:
    if not config.gateway.upstreams:
        return None
    build = cast("GatewayFactory", plugins.load(plugins.find(AppSpec, "gateway")))
    sampling = {Mode(name): getattr(config.sampling, name) for name in config.sampling.__struct_fields__}
    settings = GatewayConfig(port=config.gateway.port, sampling=sampling)
    gateway = build(store=store, upstreams=dict(config.gateway.upstreams), config=settings)
    await gateway.start()
    stack.push_async_callback(gateway.stop)
    return gateway


class _Admission:
    """Refuses rollouts of runs that serve their own model: agents of this process would find none, or pay for another.

    Args:
        store: Has the runs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._admitted = {""}

    async def __call__(self, rollouts: Sequence[Rollout]) -> ConfigError | None:
        for run_id in {rollout.run_id or "" for rollout in rollouts} - self._admitted:
            with contextlib.suppress(NotFound, StoreUnavailable):
                engine = (await self._store.runs.get(run_id)).config.get("engine")
                if engine is not None:
                    return ConfigError(
                        f"run {run_id} serves its model ({engine}) in its own process and runs its agents there; those "
                        "of this worker would not reach it. Take another run's rollouts (--run RUN), or say where the "
                        "model is served (--upstream '*=http://…/v1')"
                    )
                self._admitted.add(run_id)
        return None


class _Tally:
    """Counts what was done."""

    def __init__(self) -> None:
        self.counts: Counter[RolloutStatus] = Counter()

    def notify(self, event: Event) -> None:
        if isinstance(event, RolloutFinished):
            self.counts[event.rollout.status] += 1
