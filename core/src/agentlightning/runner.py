"""Runners: lease a rollout, bind its resources, run the agent, grade it, finish — many at once in one process."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from agentlightning._execution import Execution, Grader, grade
from agentlightning._lease_keeping import LeaseKeeper
from agentlightning.capture import Endpoint, Exporter, RolloutContext
from agentlightning.credentials import PREFIX as ISSUED
from agentlightning.errors import (
    ConfigError,
    InvalidReward,
    LeaseLost,
    LimitExceeded,
    ServerError,
    StoreError,
    StoreUnavailable,
)
from agentlightning.gateway import AttemptGrant, Gateway
from agentlightning.observer import Observers, RolloutFinished
from agentlightning.store import Store
from agentlightning.types import (
    Attempt,
    Failure,
    FailureClass,
    Json,
    Lease,
    Resource,
    RewardSource,
    Rollout,
    reward_span,
)

__all__ = ["Grader", "InProcessLauncher", "Launcher", "Runner", "RunnerConfig"]

_log = logging.getLogger("agentlightning.runner")
_FINISH_S: Final = 600.0  # while the store is away and the lease is kept nevertheless

LoadResources = Callable[[str | None], Awaitable[Mapping[str, Resource]]]
"""Loads the resources of a pinned set by its id; empty for None."""

Admit = Callable[[Sequence[Rollout]], Awaitable[ConfigError | None]]
"""Looks at work that was leased, and says why it cannot be done here, if so."""


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How rollouts are executed.

    Attributes:
        concurrency: Rollouts at once.
        lease_ttl_s: How long the store waits for a heartbeat before it takes the worker for dead, in seconds.
        model: Model asked for instead of the agent's own choice; None leaves it.
        agents: Names of agents to train; empty is all.
    """

    concurrency: int = 32
    lease_ttl_s: float = 30.0
    model: str | None = None
    agents: tuple[str, ...] = ()


class Launcher(Protocol):
    """Where runners run."""

    async def run(self, runner: Runner, *, run_id: str | None) -> None:
        """Keeps `runner` working on the run's rollouts until it is cancelled."""
        ...


class InProcessLauncher:
    """Runs rollouts in this process, on the current event loop; sync agents in threads."""

    async def run(self, runner: Runner, *, run_id: str | None) -> None:
        """Keeps `runner` working until it is cancelled."""
        await runner.serve(run_id=run_id)


class Runner:
    """Executes an agent's rollouts.

    Args:
        store: Where work is leased and finished.
        execution: How the agent is called, bound and traced.
        exporter: Brings spans to the store.
        gateway: Where model calls go; None leaves the agent's clients alone.
        graders: Turn outputs into rewards; without any, a number that the agent returns is its reward.
        resources: Loads pinned resource sets.
        observers: Learn of every finished rollout.
        config: How rollouts are executed.
        admit: Looks at what is leased; None does whatever comes.
    """

    def __init__(
        self,
        store: Store,
        *,
        execution: Execution,
        exporter: Exporter,
        gateway: Gateway | None,
        graders: Sequence[Grader],
        resources: LoadResources,
        observers: Observers,
        config: RunnerConfig,
        admit: Admit | None = None,
    ) -> None:
        self._store = store
        self._execution = execution
        self._exporter = exporter
        self._gateway = gateway
        self._graders = graders
        self._resources = resources
        self._observers = observers
        self._config = config
        self._admit = admit
        self._worker = f"runner-{secrets.token_hex(4)}"
        self._keeper = LeaseKeeper(store.rollouts, ttl_s=config.lease_ttl_s)
        self._active: dict[asyncio.Task[None], Lease] = {}
        self._leasing: asyncio.Task[list[Lease]] | None = None
        self._draining = asyncio.Event()
        self._ever_reached = self._reached = False
        self._busy_at = self._idle_at = time.monotonic()

    @property
    def active(self) -> int:
        """Rollouts that are being executed."""
        return len(self._active)

    @property
    def idle_s(self) -> float:
        """For how long the store is known to have had nothing to do for it, in seconds."""
        return 0.0 if self._active else max(0.0, self._idle_at - self._busy_at)

    async def serve(self, *, run_id: str | None = None, wait_s: float = 5.0) -> None:
        """Leases and executes until cancelled or drained; when cancelled, what is running is cancelled too.

        Args:
            run_id: The only run whose rollouts are taken; None takes any.
            wait_s: How long one call waits for work, in seconds.

        Raises:
            ConfigError: There is work that cannot be done here. It was handed back, and the rest is done.
        """
        refused: ConfigError | None = None
        try:
            while not self._draining.is_set():
                free = self._config.concurrency - len(self._active)
                if free == 0:
                    await asyncio.wait(self._active, return_when=asyncio.FIRST_COMPLETED)
                    continue
                leases = await self._next(free, run_id, wait_s)
                if self._admit is not None:
                    refused = await self._admit([lease.rollout for lease in leases])
                if refused or self._draining.is_set():
                    await self._hand_back(leases)
                    break
                for lease in leases:
                    task = asyncio.create_task(self._run(lease), name=f"rollout-{lease.rollout.id}")
                    self._active[task] = lease
                    task.add_done_callback(self._ended)
            if self._active:
                await asyncio.wait(self._active)
            if refused:
                raise refused
        finally:
            tasks = list(self._active)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._execution.close()

    async def drain(self, *, grace_s: float) -> None:
        """Takes no more work, lets what is running end, and hands back what is not done in time.

        `serve` returns afterwards. Work that is handed back failed as infrastructure: another worker tries it again.

        Args:
            grace_s: How long what is running may take to end, in seconds.
        """
        self._draining.set()
        if self._leasing is not None:
            self._leasing.cancel()
        if self._active:
            await asyncio.wait(self._active, timeout=grace_s)
        left = dict(self._active)
        for task in left:
            task.cancel("the worker stops")
        await asyncio.gather(*left, return_exceptions=True)
        await self._hand_back(list(left.values()))

    async def _hand_back(self, leases: Sequence[Lease]) -> None:
        """Ends attempts that others shall try again."""
        stopped = Failure(kind=FailureClass.INFRASTRUCTURE, message=f"worker {self._worker!r} was stopped")
        ended = await asyncio.gather(
            *(self._finish(lease, failure=stopped, patience_s=self._config.lease_ttl_s) for lease in leases),
            return_exceptions=True,
        )
        for lease, result in zip(leases, ended, strict=True):
            if isinstance(result, BaseException):
                _log.info("attempt %s could not be handed back: %s", lease.attempt.id, result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._active[task]
        self._busy_at = time.monotonic()

    async def _next(self, limit: int, run_id: str | None, wait_s: float) -> list[Lease]:
        """More work; none once the runner is draining."""
        self._leasing = asyncio.create_task(self._lease(limit, run_id, wait_s))
        try:
            leases = await self._leasing
        except asyncio.CancelledError:
            if self._draining.is_set() and self._leasing.cancelled():
                return []
            self._leasing.cancel()
            raise
        if leases or not self._reached:
            self._busy_at = time.monotonic()
        else:
            self._idle_at = time.monotonic()
        return leases

    async def _lease(self, limit: int, run_id: str | None, wait_s: float) -> list[Lease]:
        try:
            leases = await self._store.rollouts.lease(
                self._worker, limit=limit, ttl_s=self._config.lease_ttl_s, wait_s=wait_s, run_id=run_id
            )
        except (ServerError, StoreError) as error:
            if isinstance(error, ServerError) and not self._ever_reached:
                raise  # it is no server of this version, rather than one that has a bad moment
            self._reached = False
            _log.warning("cannot lease work, trying again: %s", error)
            await asyncio.sleep(1.0)
            return []
        self._reached = self._ever_reached = True
        return leases

    async def _run(self, lease: Lease) -> None:
        """One attempt from lease to finish, while its lease is kept; only cancellation gets out."""
        work = asyncio.current_task()
        assert work is not None  # noqa: S101 - a coroutine runs in a task
        keeping = asyncio.create_task(self._keeper.keep(lease.attempt, work))
        try:
            await self._execute(lease)
        except LeaseLost as error:
            _log.info("attempt %s belongs to somebody else by now: %s", lease.attempt.id, error)
        except Exception as error:  # noqa: BLE001 - stores, resources and gateways may be plugins
            await self._give_up(lease, error)
        finally:
            keeping.cancel()

    async def _give_up(self, lease: Lease, error: Exception) -> None:
        """Reports a failure around the agent; where even that fails, the lease runs out by itself."""
        failure = _failure(error, FailureClass.INFRASTRUCTURE, str(error) or type(error).__name__)
        try:
            await self._finish(lease, failure=failure)
        except Exception as again:  # noqa: BLE001 - as above
            _log.warning("attempt %s could not be finished: %s", lease.attempt.id, again)

    async def _execute(self, lease: Lease) -> None:
        rollout, attempt = lease.rollout, lease.attempt
        context = await self._context(lease)
        output: Json = None
        rewards: Mapping[str, float] = {}
        failure: Failure | None = None
        try:
            async with asyncio.timeout(_time_left(attempt)):
                output = await self._execution.call(rollout.task, context=context)
                rewards = await grade(self._graders, task=rollout.task, output=output)
        except TimeoutError as error:
            told = str(error) or f"took longer than {rollout.config.timeout_s} s"
            failure = _failure(error, FailureClass.TIMED_OUT, told)
        except InvalidReward as error:
            failure = _failure(error, FailureClass.AGENT_ERROR, str(error))
        except Exception as error:  # noqa: BLE001 - an agent may raise anything; it is the attempt's failure
            failure = _failure(error, FailureClass.AGENT_ERROR, f"{type(error).__name__}: {error}")
        if failure is None:
            self._emit_rewards(context, rewards)
        await self._finish(lease, output=output, failure=failure, rewards=rewards)

    async def _context(self, lease: Lease) -> RolloutContext:
        rollout, attempt = lease.rollout, lease.attempt
        return RolloutContext(
            rollout_id=rollout.id,
            attempt_id=attempt.id,
            mode=rollout.mode,
            run_id=rollout.run_id,
            seed=rollout.seed,
            sink=self._exporter.sink(attempt.id, token=attempt.token),
            resources=await self._resources(rollout.resources),
            endpoint=self._endpoint(lease),
            agents=frozenset(self._config.agents),
        )

    def _endpoint(self, lease: Lease) -> Endpoint | None:
        if self._gateway is None:
            return None
        rollout, attempt = lease.rollout, lease.attempt
        key = self._gateway.issue_key(
            AttemptGrant(
                rollout_id=rollout.id,
                attempt_id=attempt.id,
                token=attempt.token,
                mode=rollout.mode,
                seed=rollout.seed,
            )
        )
        return Endpoint(
            base_url=f"{self._gateway.base_url}/v1",
            api_key=key,
            model=self._config.model,
            telemetry=_telemetry(self._store.url),
        )

    def _emit_rewards(self, context: RolloutContext, rewards: Mapping[str, float]) -> None:
        source = RewardSource.GRADER if self._graders else RewardSource.AGENT
        for dimension, value in rewards.items():
            context.sink.add(
                reward_span(
                    rollout_id=context.rollout_id,
                    attempt_id=context.attempt_id,
                    span_id=secrets.token_hex(8),
                    trace_id=secrets.token_hex(16),
                    time_ns=time.time_ns(),
                    value=value,
                    dimension=dimension,
                    source=source,
                )
            )

    async def _finish(
        self,
        lease: Lease,
        *,
        output: Json = None,
        failure: Failure | None = None,
        rewards: Mapping[str, float] | None = None,
        patience_s: float = _FINISH_S,
    ) -> None:
        """Everything observed is durable before the attempt ends."""
        attempt = lease.attempt
        if self._gateway is not None:
            await self._gateway.release(attempt.id)
        await self._exporter.flush(attempt.id)
        rollout = await self._finished(
            attempt, output=_plain(output), failure=failure, until=time.monotonic() + patience_s
        )
        self._observers.notify(RolloutFinished(rollout=rollout, rewards=rewards or {}))

    async def _finished(
        self, attempt: Attempt, *, output: Json, failure: Failure | None, until: float
    ) -> Rollout:
        """Ends an attempt, again and again while the store is away; meanwhile its lease is kept, or runs out."""
        while True:
            try:
                return await self._store.rollouts.finish(
                    attempt.id, token=attempt.token, output=output, failure=failure
                )
            except StoreUnavailable as error:
                if time.monotonic() >= until:
                    raise
                _log.warning("attempt %s cannot be finished yet: %s", attempt.id, error)
                await asyncio.sleep(min(1.0, self._config.lease_ttl_s / 10))
            except (LimitExceeded, TypeError, ValueError) as error:
                if output is None:
                    raise
                message = f"its output cannot be stored: {error}"
                output, failure = None, _failure(error, FailureClass.AGENT_ERROR, message)


def _telemetry(store: str) -> str | None:
    """URL of the store's server, if keys that this process's gateway issues are good there: both have one secret."""
    secret = os.environ.get("AGL_KEY", "").strip()
    shared = bool(secret) and not secret.startswith(ISSUED)
    return store if shared and store.startswith(("http://", "https://")) else None


def _time_left(attempt: Attempt) -> float | None:
    """Seconds until the deadline, which is by the store's clock: this machine's may differ."""
    return None if attempt.deadline_at is None else max(0.0, attempt.deadline_at - attempt.leased_at)


def _failure(error: BaseException, kind: FailureClass, message: str) -> Failure:
    return Failure(kind=kind, message=message, detail="".join(traceback.format_exception(error))[-8_000:])


def _plain(output: Json) -> Json:
    """The output as JSON; what JSON cannot express is kept as text."""
    try:
        return msgspec.to_builtins(output)
    except TypeError:
        return repr(output)
