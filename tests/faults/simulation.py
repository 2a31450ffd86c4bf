"""A store, real runners and rude workers in virtual time, under random crashes, faults and clock jumps; by seed."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from agentlightning._execution import Execution
from agentlightning.capture import Exporter, current_rollout, install_tracing
from agentlightning.errors import AglError, StoreError
from agentlightning.observer import Observers
from agentlightning.runner import Runner, RunnerConfig
from agentlightning.store import MemoryStore, Store, _executor
from agentlightning.store.lifecycle import rollout_ended
from agentlightning.types import (
    Failure,
    FailureClass,
    Json,
    Lease,
    RolloutConfig,
    RolloutRequest,
    Span,
    SpanSource,
)
from faults.flaky_store import FlakyStore, Weather
from faults.invariants import Violation, Watch, require
from faults.virtual_loop import Stuck, VirtualLoop, run_virtually

if TYPE_CHECKING:
    from collections.abc import Mapping

_TTL_S = 10.0
_STORM_S = 120.0
"""How long things go wrong; afterwards everything has to end."""
_CALM_S = 900.0
_HOUR_S = 3600.0

MakeStore = Callable[..., Store]
"""Makes a store from `clock` and `new_id`; it must not use threads of its own."""


@dataclass(frozen=True)
class Outcome:
    """What one seed did.

    Attributes:
        calls: Calls that reached the store, after each of which everything was checked.
        faults: What went wrong, by kind.
        ends: Rollouts by terminal status.
        virtual_s: How long it took in its own time.
        trace: Every call in order.
    """

    calls: int
    faults: Counter[str]
    ends: Counter[str]
    virtual_s: float
    trace: tuple[str, ...]


class StoreClock:
    """The store's clock: the loop's, and what it jumped."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset_s = 0.0
        self._furthest_s = 0.0

    def jump(self, offset_s: float) -> None:
        """Is so far from the right time from now on."""
        self.offset_s = offset_s
        self._furthest_s = max(self._furthest_s, offset_s)

    def catch_up(self) -> None:
        """Is at least where it has ever been: a lease given by a fast clock lasts until then."""
        self.offset_s = self._furthest_s

    def __call__(self) -> float:
        return self._loop.wall_time() + self.offset_s


def simulate(seed: int, *, make_store: MakeStore = MemoryStore, rollouts: int = 8) -> Outcome:
    """Runs one seed to its end.

    Raises:
        Violation: A promise was broken; the message has the seed and the last calls.
    """
    loop = VirtualLoop()
    with _virtual_time(loop, seed):
        world = _World(loop, random.Random(seed), make_store, rollouts)
        try:
            return run_virtually(world.run(), loop)
        except (Violation, Stuck) as error:
            last = "\n  ".join(world.weather.trace[-25:])
            raise Violation(f"seed {seed}: {error}\n  {last}") from error


@contextmanager
def _virtual_time(loop: VirtualLoop, seed: int) -> Iterator[None]:
    install_tracing()
    state = random.getstate()
    random.seed(seed)  # jitter of what is tested, and ids of spans
    noisy = [logging.getLogger(f"agentlightning.{name}") for name in ("runner", "capture")]
    levels = [logger.level for logger in noisy]
    try:
        with (
            mock.patch("time.monotonic", loop.time),
            mock.patch("time.time", loop.wall_time),
            mock.patch("asyncio.wait_for", _wait_for),
            mock.patch.object(_executor, "SWEEP_INTERVAL_S", _HOUR_S),  # the world sweeps, in its own time
        ):
            for logger in noisy:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        random.setstate(state)
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


@dataclass
class _Worker:
    """A process: what it does, and its line to the store."""

    store: FlakyStore
    task: asyncio.Task[None]


@dataclass
class _World:
    loop: VirtualLoop
    chance: random.Random
    make_store: MakeStore
    rollouts: int
    ids: list[str] = field(default_factory=list)
    acknowledged: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = StoreClock(self.loop)
        numbers = itertools.count(1)
        self.store = self.make_store(clock=self.clock, new_id=lambda: f"{next(numbers):06d}")
        self.watch = Watch(self.store, clock=self.clock, on_violation=self.loop.fail)
        self.weather = Weather(self.chance, self.chance.choice((0.0, 0.05, 0.15, 0.3)))
        self.names = itertools.count(1)
        self.workers: list[_Worker] = []
        self.calm = False

    async def run(self) -> Outcome:
        async with self.store:
            for _ in range(self.chance.randint(2, 4)):
                self.start_worker()
            sweeping = asyncio.create_task(self.sweep())
            storm = [self.enqueue(), self.cancel(), self.crash(), self.jump()]
            await asyncio.gather(*storm)
            await self.end()
            sweeping.cancel()
            return await self.judge()

    async def judge(self) -> Outcome:
        view = await self.watch.look()
        for worker in self.workers:
            await self.kill(worker)
        await self.watch.check_spans(self.acknowledged)
        ends = Counter(each.status.value for each in view.rollouts.values())
        return Outcome(
            self.watch.calls, self.weather.counts, ends, self.loop.time(), tuple(self.weather.trace)
        )

    def start_worker(self) -> None:
        store = FlakyStore(self.watch, self.weather, name=f"worker-{next(self.names)}")
        rude = not self.calm and self.chance.random() < 0.3
        work = self.work_rudely(store) if rude else self.work(store)
        self.workers.append(_Worker(store, asyncio.create_task(work)))

    async def kill(self, worker: _Worker) -> None:
        """Nothing that it does from now on reaches the store."""
        worker.store.killed = True
        self.workers.remove(worker)
        worker.task.cancel()
        await asyncio.gather(worker.task, return_exceptions=True)
        for attempt_id, spans in worker.store.acknowledged.items():
            self.acknowledged.setdefault(attempt_id, set()).update(spans)

    async def work(self, store: FlakyStore) -> None:
        """A real runner in a process of its own."""
        exporter = Exporter(store.spans)
        await exporter.__aenter__()  # never left: a process that is killed flushes nothing
        runner = Runner(
            store,
            execution=Execution(self.agent, adapters=[], concurrency=1),
            exporter=exporter,
            gateway=None,
            graders=(),
            resources=_no_resources,
            observers=Observers(),
            config=RunnerConfig(concurrency=self.chance.randint(1, 3), lease_ttl_s=_TTL_S),
        )
        try:
            await runner.serve()
        finally:
            exporter._task.cancel()

    async def agent(self, task: Json) -> Json:
        """Takes its time, says what it does, and sometimes fails or takes too long."""
        context = current_rollout()
        assert context is not None
        for number in range(self.chance.randint(0, 2)):
            await asyncio.sleep(self.chance.expovariate(0.4 if not self.calm else 5.0))
            context.sink.add(_span(context.rollout_id, context.attempt_id, number, "agent"))
        if self.chance.random() < 0.1:
            await asyncio.sleep(4 * _TTL_S)
        if self.chance.random() < 0.1:
            raise RuntimeError("the agent broke")
        return f"output of {task}"

    async def work_rudely(self, store: FlakyStore) -> None:
        """Leases, forgets heartbeats, repeats itself, ends what is not its own any more, and differently."""
        held: list[Lease] = []
        keyed: dict[str, Any] = {}
        for number in itertools.count():
            await asyncio.sleep(self.chance.expovariate(1.0))
            try:
                if not held or self.chance.random() < 0.4:
                    if not keyed or self.chance.random() < 0.7:
                        key = f"{store.name}-{number}" if self.chance.random() < 0.5 else None
                        keyed = {"limit": self.chance.randint(1, 2), "idempotency_key": key}
                    held += await store.rollouts.lease("rude", ttl_s=_TTL_S, **keyed)
                if held:
                    await self.touch(store, self.chance.choice(held))
            except AglError:
                self.weather.counts["rude and refused"] += 1

    async def touch(self, store: FlakyStore, lease: Lease) -> None:
        attempt = lease.attempt
        token = attempt.token - (self.chance.random() < 0.2)
        choice = self.chance.randrange(4)
        if choice == 0:
            await store.rollouts.heartbeat(attempt.id, token=token, ttl_s=_TTL_S)
        elif choice == 1:
            spans = [_span(lease.rollout.id, attempt.id, self.chance.randrange(6), "rude") for _ in range(2)]
            await store.spans.append(spans, token=token)
        elif choice == 2:
            await store.rollouts.finish(attempt.id, token=token, output=f"rude {self.chance.randrange(2)}")
        else:
            kind = self.chance.choice(list(FailureClass))
            await store.rollouts.finish(attempt.id, token=token, failure=Failure(kind=kind, message="rude"))

    async def enqueue(self) -> None:
        """Repeats each request with its key until it is acknowledged."""
        store = FlakyStore(self.watch, self.weather, name="enqueuer")
        left = self.rollouts
        while left:
            count = min(left, self.chance.randint(1, 3))
            requests = [RolloutRequest(task=left - number, config=self.config()) for number in range(count)]
            while True:
                try:
                    added = await store.rollouts.enqueue(requests, idempotency_key=f"key-{left}")
                except StoreError:
                    await asyncio.sleep(self.chance.random())
                else:
                    break
            self.ids += [rollout.id for rollout in added]
            left -= count
            await asyncio.sleep(self.chance.expovariate(0.2))

    def config(self) -> RolloutConfig:
        return RolloutConfig(
            timeout_s=self.chance.choice((None, 5.0, 25.0)),
            max_attempts=self.chance.randint(1, 4),
            retry_on=tuple(kind for kind in FailureClass if self.chance.random() < 0.6),
        )

    async def cancel(self) -> None:
        store = FlakyStore(self.watch, self.weather, name="canceller")
        for _ in range(self.chance.randint(0, 3)):
            await asyncio.sleep(self.chance.uniform(0.0, _STORM_S / 3))
            if self.ids:
                try:
                    await store.rollouts.cancel([self.chance.choice(self.ids)])
                except StoreError:
                    self.weather.counts["cancel lost"] += 1

    async def crash(self) -> None:
        for _ in range(self.chance.randint(0, 4)):
            await asyncio.sleep(self.chance.uniform(0.0, _STORM_S / 4))
            if self.workers:
                self.weather.counts["crash"] += 1
                await self.kill(self.chance.choice(self.workers))
                await asyncio.sleep(self.chance.uniform(0.0, _TTL_S))
            self.start_worker()

    async def jump(self) -> None:
        for _ in range(self.chance.choice((0, 0, 1, 2))):
            await asyncio.sleep(self.chance.uniform(0.0, _STORM_S / 3))
            self.weather.counts["clock jump"] += 1
            self.clock.jump(self.chance.choice((-_HOUR_S, _HOUR_S, 0.0, -30.0, 30.0)))
            await self.watch.look()

    async def sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self.store.sweep()

    async def end(self) -> None:
        """The storm is over: one good worker, a steady clock, and everything has to end."""
        self.weather.fault = 0.0
        self.calm = True
        self.clock.catch_up()
        for worker in list(self.workers):
            await self.kill(worker)
        self.start_worker()
        require(len(set(self.ids)) == self.rollouts, "rollouts were added twice or not at all", self.ids)
        done = await self.store.rollouts.wait(self.ids, timeout_s=_CALM_S)
        view = await self.watch.look()
        require(view.rollouts.keys() == set(self.ids), "rollouts that nobody asked for", view.rollouts.keys())
        left = [each for each in view.rollouts.values() if not rollout_ended(each.status)]
        require(not left and len(done) == self.rollouts, f"did not end within {_CALM_S:g} s", left)


def _span(rollout_id: str, attempt_id: str, number: int, name: str) -> Span:
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        span_id=f"{number:016x}",
        trace_id="0" * 32,
        name=name,
        operation="chat",
        source=SpanSource.EMIT,
        start_ns=number,
        end_ns=number,
    )


async def _wait_for(future: Awaitable[Any], timeout_s: float | None) -> Any:
    """As in Python 3.12; that of 3.11 swallows cancellations, which `test_cancellation.py` is about."""
    async with asyncio.timeout(timeout_s):
        return await future


async def _no_resources(_: str | None) -> Mapping[str, Any]:
    return {}
