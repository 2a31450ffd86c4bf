"""Jobs from configuration: what `agl train`, `eval`, `run` and `runs resume` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentlightning._loading import store_schemes
from agentlightning.algorithm import EvaluationReport
from agentlightning.command import command_of
from agentlightning.compose import plan_of
from agentlightning.config import RunConfig, read_tasks
from agentlightning.errors import ConfigError
from agentlightning.observer import Observer
from agentlightning.plugins import Plugins, load_plugins
from agentlightning.store import Store, open_store
from agentlightning.trainer import Trainer, TrainingResult, run_job
from agentlightning.types import Json, Mode, Rollout, Run

Listeners = Sequence[Observer | str]


def trainer_of(
    config: RunConfig, *, plugins: Plugins, observers: Listeners = (), val: Sequence[Json] | None = None
) -> Trainer:
    """The trainer that a configuration describes.

    Args:
        observers: Listeners besides the configured ones.
        val: Held-out tasks instead of the configured file's.

    Raises:
        ConfigError: Something is missing or cannot be used.
    """
    held_out = val if val is not None else read_tasks(Path(config.val)) if config.val else ()
    sampling = {Mode(name): getattr(config.sampling, name) for name in config.sampling.__struct_fields__}
    return Trainer(
        agent_of(config),
        algorithm=plan_of(config.algorithm, sections=config.algorithms),
        train=read_tasks(Path(config.train)) if config.train else (),
        val=held_out,
        store=config.store,
        engine=config.engine,
        engine_params=config.engines.get(config.engine or "", {}),
        upstreams=config.gateway.upstreams,
        graders=config.graders,
        observers=[*config.observers, *observers],
        stages=config.pipeline.stages,
        stage_params=config.pipeline.params,
        sampling=sampling,
        model=config.model,
        agents=config.agents,
        budget=config.budget,
        seed=config.seed,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
        max_attempts=config.max_attempts,
        port=config.gateway.port,
        directory=config.directory,
        plugins=plugins,
    )


def agent_of(config: RunConfig) -> object:
    """The agent that is configured: an import string, or a command.

    Raises:
        ConfigError: There is none, or the command cannot be used.
    """
    if config.target:
        return config.target
    if not config.agent:
        raise ConfigError(
            "there is no agent to work with; name one as TARGET, 'module:object' or 'file.py:object', or a command "
            "line with --command"
        )
    return command_of(config.agent, where="the agent's command")


def train_from_config(
    config: RunConfig, *, resume: str | None = None, observers: Listeners = (), plugins: Plugins | None = None
) -> TrainingResult:
    """Trains as configured.

    Args:
        resume: Id of a run of the configured store to go on with, under the configuration it was started with.
        observers: Listeners besides the configured ones.
        plugins: Plugins to use; None discovers the installed ones.
    """
    plugins = plugins or load_plugins()
    if resume is not None:
        return resume_run(config.store, resume, observers=[*config.observers, *observers], plugins=plugins)
    plan = plan_of(config.algorithm, sections=config.algorithms)
    offline = any("offline" in one.params for one in plan.algorithms)
    if not config.train and not offline:
        raise ConfigError("there are no training tasks; name a file of them with --train FILE")
    return trainer_of(config, plugins=plugins, observers=observers).fit()


def evaluate_from_config(
    config: RunConfig,
    data: str,
    *,
    run: str | None = None,
    observers: Listeners = (),
    plugins: Plugins | None = None,
) -> EvaluationReport:
    """Evaluates as configured on a file of tasks.

    Args:
        run: Id of a run of the configured store whose newest weights are evaluated. What the configuration leaves
            open (agent, engine, graders, sampling) is taken from that run.
    """
    plugins = plugins or load_plugins()
    found = read_tasks(Path(data))
    if run is None:
        return trainer_of(config, plugins=plugins, observers=observers, val=found).evaluate()
    started = run_job(lambda _: _read_run(config.store, run, plugins))
    trainer = Trainer.of_run(started, store=config.store, observers=observers, plugins=plugins)
    return trainer.evaluate(found, run=run)


def run_once_from_config(
    config: RunConfig, task: Json, *, observers: Listeners = (), plugins: Plugins | None = None
) -> Rollout:
    """One rollout on one task, kept in the configured store."""
    plugins = plugins or load_plugins()
    trainer = trainer_of(config, plugins=plugins, observers=observers, val=[task])
    report = trainer.evaluate()
    return run_job(lambda _: _read_rollout(config.store, report.rollout_ids[0], plugins))


def resume_run(
    store: str, run_id: str, *, observers: Listeners = (), plugins: Plugins | None = None
) -> TrainingResult:
    """Goes on with an interrupted or stopped run, under the configuration it was started with.

    Raises:
        NotFound: The store has no such run.
        ConfigError: The run ended, or cannot be started again from here.
    """
    plugins = plugins or load_plugins()
    found = run_job(lambda _: _read_run(store, run_id, plugins))
    return Trainer.of_run(found, store=store, observers=observers, plugins=plugins).fit(resume=run_id)


def open_configured(url: str, plugins: Plugins) -> Store:
    """The store of a URL, with the schemes that plugins bring."""
    return open_store(url, schemes=store_schemes(plugins))


async def _read_run(store: str, run_id: str, plugins: Plugins) -> Run:
    async with open_configured(store, plugins) as opened:
        return await opened.runs.get(run_id)


async def _read_rollout(store: str, rollout_id: str, plugins: Plugins) -> Rollout:
    async with open_configured(store, plugins) as opened:
        return await opened.rollouts.get(rollout_id)
