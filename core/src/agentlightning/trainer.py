"""The trainer: an agent, an algorithm and tasks, put together into a run."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from agentlightning._assembly import Parts, open_session
from agentlightning._loading import build_algorithm
from agentlightning._recipe import Recipe
from agentlightning._session import Session
from agentlightning._set_weights import SetWeights
from agentlightning.algorithm import Algorithm, EvaluationReport
from agentlightning.budget import Budget
from agentlightning.compose import PlanLike, plan_of
from agentlightning.continuous import Continuous, ContinuousLoop, Traffic
from agentlightning.errors import BudgetExhausted, ConfigError
from agentlightning.gateway import HttpUpstream, Sampling
from agentlightning.observer import Observer
from agentlightning.plugins import Plugins, load_plugins
from agentlightning.runner import Grader
from agentlightning.store import Store
from agentlightning.targets import target_of
from agentlightning.types import Json, MetricPoint, Mode, ResourceSet, Run, RunKind, RunStatus

__all__ = ["AlgorithmChoice", "Trainer", "TrainingResult", "run_job"]

_Result = TypeVar("_Result")
AlgorithmChoice = PlanLike | Sequence[PlanLike]
"""An algorithm by name or with parameters, a composition of them, or several to run one after another."""


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to.

    Attributes:
        store: URL of the store that has everything.
        directory: Where its checkpoints and files are.
        summary: Evaluations by label (`before`, `after`, …) and what was spent.
        best: The resource set that is live now, if the store has one. Trained weights are in it under their model's
            name: `Weights`, a Hugging Face directory.
        history: Metric points by name, then by step.
    """

    run_id: str
    store: str
    directory: str
    status: RunStatus
    summary: dict[str, Json]
    best: ResourceSet | None
    history: list[MetricPoint]


class Trainer:
    """Trains or evaluates an agent. Every argument that is a string is an import string, a name or a URL.

    Args:
        agent: A function of its task, a framework object that an adapter accepts, or `module:object`.
        algorithm: Name of an algorithm; a composition such as `agl.together("lightningrl", "decisions")`; or several,
            as names or as (name, parameters), to run one after another.
        params: Parameters of the algorithm, if it is one name.
        train: Training tasks.
        val: Held-out tasks.
        store: Store URL, or a store that is open already.
        engine: Name of an inference engine, for agents whose model is served (and trained) here.
        engine_params: The engine's options.
        upstreams: External models by name, for agents whose calls are recorded and forwarded; `*` is every model.
        graders: Functions of (task, output), or import strings or names of them; without any, a number that the
            agent returns is its reward.
        observers: Listeners, or names of them.
        stages: Names of pipeline stages in order; None is the default pipeline.
        stage_params: Parameters by stage.
        sampling: Overrides of the agent's sampling parameters, by mode.
        model: Model name to ask for instead of the agent's own choice.
        agents: Names of agents to train; empty is all.
        budget: Hard limits.
        seed: Everything random derives from it.
        concurrency: Rollouts at once.
        timeout_s: Longest duration of one attempt, in seconds.
        max_attempts: Most attempts of one rollout.
        port: The gateway's port on the loopback interface; 0 takes a free one.
        directory: Where runs keep their files; None is next to the store.
        plugins: Plugins to use; None discovers the installed ones.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        agent: object,
        *,
        algorithm: AlgorithmChoice = "lightningrl",
        params: Mapping[str, Json] | None = None,
        train: Sequence[Json] = (),
        val: Sequence[Json] = (),
        store: str | Store = "sqlite:///agl.db",
        engine: str | None = None,
        engine_params: Mapping[str, Json] | None = None,
        upstreams: Mapping[str, HttpUpstream] | None = None,
        graders: Sequence[Grader | str] = (),
        observers: Sequence[Observer | str] = (),
        stages: Sequence[str] | None = None,
        stage_params: Mapping[str, Mapping[str, Json]] | None = None,
        sampling: Mapping[Mode, Sampling] | None = None,
        model: str | None = None,
        agents: Sequence[str] = (),
        budget: Budget | None = None,
        seed: int = 0,
        concurrency: int = 32,
        timeout_s: float | None = None,
        max_attempts: int = 3,
        port: int = 0,
        directory: str | Path | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, got {concurrency!r}")
        if engine is not None and upstreams:
            raise ConfigError(
                f"give either engine={engine!r} or upstreams, not both: which model should calls go to?"
            )
        plan = plan_of(algorithm)
        if params and plan.how is not None:
            raise ConfigError(
                f"params are those of one algorithm, and there are {plan.title!r}; give each its own, such as "
                f"agl.part({plan.algorithms[0].name!r}, {{...}})"
            )
        recipe = Recipe(
            agent=agent if isinstance(agent, str) else target_of(agent) or "",
            algorithm=msgspec.structs.replace(plan, params=plan.params | dict(params or {})),
            engine=engine,
            engine_params=dict(engine_params or {}),
            upstreams=dict(upstreams or {}),
            graders=tuple(one if isinstance(one, str) else target_of(one) for one in graders),
            observers=tuple(one for one in observers if isinstance(one, str)),
            stages=None if stages is None else tuple(stages),
            stage_params={name: dict(values) for name, values in (stage_params or {}).items()},
            sampling=dict(sampling or {}),
            model=model,
            agents=tuple(agents),
            budget=budget or Budget(),
            seed=seed,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
            port=port,
            directory=None if directory is None else str(Path(directory).resolve()),
        )
        self._parts = Parts(
            recipe=recipe,
            agent=agent,
            graders=tuple(graders),
            observers=tuple(observers),
            train=list(train),
            val=list(val),
            store=store,
            plugins=plugins or load_plugins(),
        )

    @classmethod
    def of_run(
        cls,
        run: Run,
        *,
        store: str | Store,
        observers: Sequence[Observer | str] = (),
        plugins: Plugins | None = None,
    ) -> Self:
        """The trainer that started `run`, from what the store keeps of it; use it with `fit(resume=run.id)`.

        Raises:
            ConfigError: The run was started from objects that cannot be found again.
        """
        recipe = Recipe.from_config(run.config, run_id=run.id)
        settings = {
            field: getattr(recipe, field) for field in recipe.__struct_fields__ if field != "continuous"
        }
        settings["observers"] = observers or recipe.observers
        trainer = cls(**settings, store=store, plugins=plugins)
        trainer._change(continuous=recipe.continuous)
        return trainer

    def fit(self, *, resume: str | None = None) -> TrainingResult:
        """Trains to the end. Ctrl-C once stops cleanly.

        Args:
            resume: Id of an interrupted or stopped run of this store to go on with.

        Raises:
            Interrupted: It was stopped; the message says how to resume.
            BudgetExhausted: The budget allows no more; what was done so far is kept.
        """
        return run_job(lambda stop: self._fit(stop, resume))

    def offline(
        self,
        *,
        runs: Sequence[str] = (),
        store: str = "",
        order: str = "uniform",
        window: int = 0,
        resume: str | None = None,
    ) -> TrainingResult:
        """Trains from rollouts that a store has; nothing but evaluations is played.

        Args:
            runs: Ids of the runs whose training rollouts are learned from; empty is all that finished before.
            store: URL of the store that has them; empty is this trainer's.
            order: Which groups of them an update draws: `uniform`, the `recent` ones, or by `priority`.
            window: Draws from so many newest groups, for `recent`; 0 is as many as an update takes.
            resume: As for `fit`.

        Raises:
            ConfigError: The algorithm cannot learn from stored rollouts, or there are none.
        """
        return run_job(
            lambda stop: self._offline(stop, resume, runs=runs, store=store, order=order, window=window)
        )

    async def aoffline(
        self,
        *,
        runs: Sequence[str] = (),
        store: str = "",
        order: str = "uniform",
        window: int = 0,
        resume: str | None = None,
    ) -> TrainingResult:
        """Like `offline`, on the running event loop."""
        return await self._offline(
            asyncio.Event(), resume, runs=runs, store=store, order=order, window=window
        )

    def learn(self, how: Continuous | None = None, *, resume: str | None = None) -> TrainingResult:
        """Learns while agents stay live: what the algorithm learns becomes a candidate, a canary, and live, or goes.

        Args:
            how: Rounds, traffic, and what is accepted.
            resume: As for `fit`.

        Raises:
            Interrupted: It was stopped; the message says how to resume.
            BudgetExhausted: The budget allows no more; what is live stays live.
        """
        self._change(continuous=how or Continuous())
        return self.fit(resume=resume)

    async def alearn(self, how: Continuous | None = None, *, resume: str | None = None) -> TrainingResult:
        """Like `learn`, on the running event loop."""
        self._change(continuous=how or Continuous())
        return await self.afit(resume=resume)

    async def afit(self, *, resume: str | None = None) -> TrainingResult:
        """Like `fit`, on the running event loop; Ctrl-C is left to the caller."""
        return await self._fit(asyncio.Event(), resume)

    def evaluate(self, tasks: Sequence[Json] | None = None, *, run: str | None = None) -> EvaluationReport:
        """Evaluates the agent.

        Args:
            tasks: What on; None is the held-out tasks.
            run: Id of a run whose newest checkpoint is loaded first.

        Raises:
            ConfigError: There are no tasks.
        """
        return run_job(lambda stop: self._evaluate(stop, tasks, run))

    async def aevaluate(
        self, tasks: Sequence[Json] | None = None, *, run: str | None = None
    ) -> EvaluationReport:
        """Like `evaluate`, on the running event loop."""
        return await self._evaluate(asyncio.Event(), tasks, run)

    async def _fit(self, stop: asyncio.Event, resume: str | None) -> TrainingResult:
        how = self._parts.recipe.continuous
        if how is not None and how.traffic is Traffic.LIVE and self._parts.store == "memory://":
            raise ConfigError(
                "live rollouts are those of other workers, and nobody else has a store in memory; name one with "
                "store=… (--store), such as sqlite:///agl.db or http://…"
            )
        algorithm = build_algorithm(self._parts.recipe, self._parts.plugins)
        async with open_session(self._parts, kind=RunKind.TRAIN, stop=stop, resume=resume) as session:
            if how is not None:
                await ContinuousLoop(session, algorithm, how).run()
            else:
                await _fitted(session, algorithm)
            await session.finish(RunStatus.SUCCEEDED)
            return await _result(session)

    async def _offline(
        self,
        stop: asyncio.Event,
        resume: str | None,
        *,
        runs: Sequence[str],
        store: str,
        order: str,
        window: int,
    ) -> TrainingResult:
        chosen: dict[str, Json] = {"runs": list(runs), "store": store, "order": order, "window": window}
        found = self._parts.recipe.algorithm
        if found.how is not None:
            raise ConfigError(
                f"offline takes one algorithm, got {found.title!r}; in a composition give the one that learns from "
                "stored rollouts its parameter `offline`"
            )
        self._change(algorithm=msgspec.structs.replace(found, params={**found.params, "offline": chosen}))
        return await self._fit(stop, resume)

    def _change(self, **settings: object) -> None:
        self._parts = replace(self._parts, recipe=msgspec.structs.replace(self._parts.recipe, **settings))

    async def _evaluate(
        self, stop: asyncio.Event, tasks: Sequence[Json] | None, run: str | None
    ) -> EvaluationReport:
        async with open_session(self._parts, kind=RunKind.EVALUATE, stop=stop, weights_of=run) as session:
            report = await session.evaluate(tasks, label="evaluation")
            await session.finish(RunStatus.SUCCEEDED)
            return report


async def _fitted(session: Session, algorithm: Algorithm) -> None:
    """Runs an algorithm; weights that it changed are live afterwards, also where the budget has ended it."""
    began = None if session.state or session.engine is None else session.engine.version
    try:
        await algorithm.fit(session)
    except BudgetExhausted:
        await _deliver(session, began)
        raise
    await _deliver(session, began)


async def _deliver(session: Session, began: int | None) -> None:
    if session.engine is not None and session.engine.version != began:
        await SetWeights(session).deliver()


async def _result(session: Session) -> TrainingResult:
    run = await session.store.runs.get(session.run.id)
    return TrainingResult(
        run_id=run.id,
        store=session.store.url,
        directory=str(session.directory),
        status=run.status,
        summary=run.summary,
        best=await session.store.resources.live(),
        history=await session.store.runs.metrics(run.id),
    )


def run_job(job: Callable[[asyncio.Event], Coroutine[object, object, _Result]]) -> _Result:
    """Runs a job to its end; the first Ctrl-C asks it to stop, the second one ends it at once."""

    async def main() -> _Result:
        stop = asyncio.Event()
        if threading.current_thread() is not threading.main_thread():
            return await job(stop)
        loop = asyncio.get_running_loop()
        before = signal.getsignal(signal.SIGINT)

        def interrupt(_number: int, _frame: object) -> None:
            signal.signal(signal.SIGINT, before)
            loop.call_soon_threadsafe(stop.set)

        signal.signal(signal.SIGINT, interrupt)
        try:
            return await job(stop)
        finally:
            signal.signal(signal.SIGINT, before)

    return asyncio.run(main())
