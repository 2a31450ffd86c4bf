"""Puts a run together: store, run record, model, gateway, runners — and takes it apart again in reverse."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from agentlightning._execution import Execution
from agentlightning._loading import (
    ResourceLoader,
    build_grader,
    build_observer,
    build_pipeline,
    instrument,
    store_schemes,
)
from agentlightning._owner import judged, owner_name
from agentlightning._recipe import Recipe, environment, read_jsonl, write_tasks
from agentlightning._session import Session
from agentlightning.budget import BudgetMeter, prices_of
from agentlightning.capture import Exporter
from agentlightning.continuous import Traffic
from agentlightning.engine import Backend, BackendFactory
from agentlightning.errors import (
    AglError,
    ConfigError,
    EngineError,
    Interrupted,
    LeaseLost,
    StoreError,
    StoreUnavailable,
    in_full,
)
from agentlightning.gateway import GatewayConfig, GatewayFactory, Sampling, Upstream
from agentlightning.observer import Observer, Observers, RunStarted
from agentlightning.plugins import Plugins
from agentlightning.runner import Grader, Launcher, Runner, RunnerConfig
from agentlightning.specs import (
    AlgorithmSpec,
    AppSpec,
    EngineSpec,
    LauncherSpec,
)
from agentlightning.store import RolloutQuery, Store, open_store
from agentlightning.targets import load_target
from agentlightning.types import (
    Json,
    RolloutConfig,
    RolloutStatus,
    Run,
    RunKind,
    RunStatus,
)
from agentlightning.versions import Versions, highest_seen

_log = logging.getLogger("agentlightning.trainer")
_HEARTBEAT_S = 2.0
_OWNER_TTL_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What `Trainer` was given: the recipe, and the objects that plain data cannot hold."""

    recipe: Recipe
    agent: object
    graders: tuple[Grader | str, ...]
    observers: tuple[Observer | str, ...]
    train: Sequence[Json]
    val: Sequence[Json]
    store: Store | str
    plugins: Plugins


@asynccontextmanager
async def open_session(
    parts: Parts,
    *,
    kind: RunKind,
    stop: asyncio.Event,
    resume: str | None = None,
    weights_of: str | None = None,
) -> AsyncIterator[Session]:
    """Everything a run needs, started; on the way out all of it is stopped and the run's status is settled.

    Args:
        stop: Set by whoever wants the run to stop.
        resume: Id of a run to go on with.
        weights_of: Id of a run whose newest checkpoint is loaded into the learner.
    """
    recipe, plugins = parts.recipe, parts.plugins
    algorithm = recipe.algorithm.title
    graders = [build_grader(one, plugins) for one in parts.graders]
    observers = Observers([build_observer(one, plugins) for one in parts.observers])
    agent = load_target(parts.agent) if isinstance(parts.agent, str) else parts.agent
    prices = prices_of(recipe.budget, engine=recipe.engine, upstreams=recipe.upstreams)
    async with AsyncExitStack() as stack:
        store = await _store(parts, stack)
        run = await _claim(store, recipe, kind=kind, name=algorithm, resume=resume)
        directory = _directory(parts, store) / run.id
        session = Session(
            run=run,
            seed=recipe.seed,
            train=parts.train,
            val=parts.val,
            store=store,
            engine=None,
            learner=None,
            gateway=None,
            pipeline=build_pipeline(recipe, plugins, algorithm),
            observers=observers,
            meter=BudgetMeter(recipe.budget, prices=prices),
            rollout_config=RolloutConfig(timeout_s=recipe.timeout_s, max_attempts=recipe.max_attempts),
            sampling=recipe.sampling,
            directory=directory,
            stop=stop,
            state={},
        )
        await stack.enter_async_context(_settled(session))
        _keep_tasks(session, resumed=resume is not None)
        await stack.enter_async_context(_alive(session))
        await _start_model(session, recipe, plugins, stack, resumed=resume is not None)
        await _load_checkpoint(session, resume=resume, weights_of=weights_of)
        await _start_runner(session, parts, agent, graders, stack)
        observers.notify(RunStarted(run=session.run, resumed=resume is not None))
        yield session


async def _store(parts: Parts, stack: AsyncExitStack) -> Store:
    if not isinstance(parts.store, str):
        return parts.store
    return await stack.enter_async_context(open_store(parts.store, schemes=store_schemes(parts.plugins)))


async def _claim(store: Store, recipe: Recipe, *, kind: RunKind, name: str, resume: str | None) -> Run:
    """Creates the run, or takes over one that nobody drives any more."""
    now = time.time()
    if kind is RunKind.TRAIN and recipe.continuous is not None and recipe.engine is not None:
        await _check_alone(store, resume=resume)
    if resume is not None:
        before = judged(await store.runs.get(resume))
        if before.status not in (RunStatus.INTERRUPTED, RunStatus.STOPPED):
            raise ConfigError(
                f"run {resume} is {before.status}; only interrupted and stopped runs can be resumed"
            )
        _check_same(before, recipe, kind=kind, name=name)
        await store.runs.update(resume, status=before.status)
        run = await store.runs.update(
            resume, status=RunStatus.RUNNING, owner=owner_name(), ttl_s=_OWNER_TTL_S
        )
        await _give_up_unfinished(store, resume)
        return run
    return await store.runs.create(
        Run(
            id=f"{kind.value}-{secrets.token_hex(4)}",
            kind=kind,
            algorithm=name,
            status=RunStatus.RUNNING,
            config=recipe.to_config(),
            seed=recipe.seed,
            created_at=now,
            updated_at=now,
            environment=environment(),
            owner=owner_name(),
            expires_at=now + _OWNER_TTL_S,
        )
    )


async def _check_alone(store: Store, *, resume: str | None) -> None:
    """Each of two learners would serve its own weights under the sets of the other, and judge them by that."""
    for one in map(judged, await store.runs.list()):
        learns = one.config.get("continuous") is not None and one.config.get("engine") is not None
        if learns and one.status is RunStatus.RUNNING and one.id != resume:
            raise ConfigError(
                f"run {one.id} learns weights on this store already; stop it first (agl runs stop {one.id}), or "
                "give this run a store of its own (--store)"
            )


def _check_same(before: Run, recipe: Recipe, *, kind: RunKind, name: str) -> None:
    """A checkpoint means something to the algorithm that wrote it, and to nobody else."""
    if before.kind is not kind:
        raise ConfigError(
            f"run {before.id} is of kind {before.kind.value!r}, which has nothing to go on with; begin anew"
        )
    if before.algorithm != name:
        raise ConfigError(
            f"run {before.id} was begun with algorithm {before.algorithm!r}, and this is {name!r}; go on with the "
            f"same one: agl runs resume {before.id}"
        )
    continuous = before.config.get("continuous") is not None
    if continuous != (recipe.continuous is not None):
        what, call = (
            ("learns continuously", "learn(…, ") if continuous else ("is a training that ends", "fit(")
        )
        raise ConfigError(
            f"run {before.id} {what}; go on with Trainer.{call}resume={before.id!r}) or agl runs resume {before.id}"
        )


async def _give_up_unfinished(store: Store, run_id: str) -> None:
    """What the dead process had queued is cancelled: the resumed step asks for its rollouts anew."""
    query = RolloutQuery(run_id=run_id, statuses=(RolloutStatus.QUEUED, RolloutStatus.RUNNING))
    while True:
        page = await store.rollouts.list(query, limit=1_000)
        if not page.items:
            return
        await store.rollouts.cancel([rollout.id for rollout in page.items], reason="the run was resumed")


def _directory(parts: Parts, store: Store) -> Path:
    if parts.recipe.directory is not None:
        return Path(parts.recipe.directory)
    scheme, _, path = store.url.partition(":///")
    if scheme == "sqlite":
        database = Path(path.partition("?")[0])
        return database.with_name(f"{database.stem}-runs").resolve()
    if store.url == "memory://":
        return Path(tempfile.mkdtemp(prefix="agl-runs-"))
    return Path("agl-runs").resolve()


def _keep_tasks(session: Session, *, resumed: bool) -> None:
    """Tasks live next to the checkpoints, so that a run can be resumed without the script that started it."""
    train, val = session.directory / "train.jsonl", session.directory / "val.jsonl"
    if resumed and train.exists():
        session.train, session.val = read_jsonl(train), read_jsonl(val)
        return
    try:
        session.directory.mkdir(parents=True, exist_ok=True)
        write_tasks(train, session.train)
        write_tasks(val, session.val)
    except OSError as error:
        raise ConfigError(
            f"cannot write the run's files to {str(session.directory)!r}: {error.strerror}; "
            "choose another place with directory=… (--directory)"
        ) from error


@asynccontextmanager
async def _settled(session: Session) -> AsyncIterator[None]:
    """Whatever happens, the store learns how the run ended; what can be mended from outside can be resumed."""
    try:
        yield
    except (Interrupted, StoreUnavailable, asyncio.CancelledError) as error:
        await _settle(session, RunStatus.STOPPED, str(error) or None)
        raise
    except AglError as error:
        await _settle(session, RunStatus.FAILED, in_full(error))
        raise
    except Exception as error:
        await _settle(session, RunStatus.FAILED, f"{type(error).__name__}: {in_full(error)}")
        raise


async def _settle(session: Session, status: RunStatus, error: str | None) -> None:
    try:
        await session.finish(status, error=error)
    except StoreError as unsettled:
        _log.warning("the end of run %s could not be stored: %s", session.run.id, unsettled)


@asynccontextmanager
async def _alive(session: Session) -> AsyncIterator[None]:
    """Keeps the run's lease, and hears requests to stop."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            try:
                stop = await session.store.runs.heartbeat(
                    session.run.id, owner=owner_name(), ttl_s=_OWNER_TTL_S
                )
            except LeaseLost:
                stop = True
            except StoreError as error:
                _log.warning("heartbeat of run %s failed, trying again: %s", session.run.id, error)
                continue
            if stop:
                session.stop.set()

    async with _background(beat(), name="run-heartbeat"):
        yield


@asynccontextmanager
async def _background(
    job: Coroutine[object, object, None], *, name: str
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(job, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _start_model(
    session: Session, recipe: Recipe, plugins: Plugins, stack: AsyncExitStack, *, resumed: bool
) -> None:
    """Starts the engine, if there is one, and the gateway in front of it or of the upstreams."""
    upstreams: dict[str, Upstream] = dict(recipe.upstreams)
    if recipe.engine is not None:
        if resumed and (versions := Versions(session.directory)).newest < 0:
            versions.skip(await highest_seen(session.store, session.run.id))
        factory = cast("BackendFactory", plugins.load(plugins.find(EngineSpec, recipe.engine)))
        backend: Backend = factory(recipe.engine_params, seed=recipe.seed, directory=session.directory)
        await backend.engine.start()
        stack.push_async_callback(backend.engine.stop)
        session.engine, session.learner = backend.engine, backend.learner
        upstreams["*"] = backend.engine
    if not upstreams:
        return
    build = cast("GatewayFactory", plugins.load(plugins.find(AppSpec, "gateway")))
    config = GatewayConfig(
        port=recipe.port, sampling=recipe.sampling, on_policy=_policy_sampling(session, recipe, plugins)
    )
    session.gateway = build(store=session.store, upstreams=upstreams, config=config)
    await session.gateway.start()
    stack.push_async_callback(session.gateway.stop)


def _policy_sampling(session: Session, recipe: Recipe, plugins: Plugins) -> Sampling:
    """How training rollouts are sampled where nobody says: as the algorithm needs it, but for agents that are live."""
    if session.run.kind is not RunKind.TRAIN:
        return Sampling()
    live = recipe.continuous is not None and recipe.continuous.traffic is Traffic.LIVE
    if live or not any(
        plugins.find(AlgorithmSpec, one.name).on_policy for one in recipe.algorithm.algorithms
    ):
        return Sampling()
    return Sampling(temperature=1.0, top_p=1.0)


async def _load_checkpoint(session: Session, *, resume: str | None, weights_of: str | None) -> None:
    source = session.run if resume else await session.store.runs.get(weights_of) if weights_of else None
    if source is None:
        return
    if source.checkpoint is None:
        if weights_of:
            raise ConfigError(f"run {weights_of} has no checkpoint to evaluate")
        await session.tell_weights("is what the run goes on with: it has no checkpoint", was=None)
        return
    directory = Path(source.checkpoint.path)
    try:
        manifest = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"checkpoint {str(directory)!r} of run {source.id} cannot be read: {error}"
        ) from error
    await session.load_weights(
        directory,
        origin=f"checkpoint {directory.name} of run {source.id}",
        was=manifest.get("version") if resume else None,
    )
    if resume:
        session.state, session.serial = manifest["state"], manifest["serial"]
        session.meter.restore(manifest["spent"])


async def _start_runner(
    session: Session, parts: Parts, agent: object, graders: Sequence[Grader], stack: AsyncExitStack
) -> None:
    recipe, plugins, store = parts.recipe, parts.plugins, session.store
    adapters = instrument(plugins, stack)
    exporter = await stack.enter_async_context(Exporter(store.spans))
    runner = Runner(
        store,
        execution=Execution(agent, adapters=adapters, concurrency=recipe.concurrency),
        exporter=exporter,
        gateway=session.gateway,
        graders=graders,
        resources=ResourceLoader(store, plugins),
        observers=session.observers,
        config=RunnerConfig(concurrency=recipe.concurrency, model=recipe.model, agents=recipe.agents),
    )
    launcher = cast("type[Launcher]", plugins.load(plugins.find(LauncherSpec, "in-process")))()
    session.workers = await stack.enter_async_context(
        _background(launcher.run(runner, run_id=session.run.id), name="runner")
    )
