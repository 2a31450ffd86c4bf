"""`agl eval`: an evaluation on a file of tasks."""

from __future__ import annotations

from pathlib import Path

import click

from agentlightning.cli._options import check_names, effective, json_option, quiet_option, run_options
from agentlightning.cli._output import aside
from agentlightning.cli._results import listeners, show_evaluation, without_outcome
from agentlightning.cli._stores import with_store
from agentlightning.config import EffectiveConfig, read_tasks
from agentlightning.errors import ConfigError, StoreError
from agentlightning.plugins import load_plugins
from agentlightning.store import Store
from agentlightning.types import Rollout


def _refuse_other_settings(settings: EffectiveConfig, run_id: str) -> None:
    """A run is evaluated as it was configured: what would be ignored is an error."""
    given = [name for name, source in settings.sources.items() if source.startswith("flag")]
    ignored = sorted(name for name in given if name.partition(".")[0] not in {"store", "observers"})
    if ignored:
        raise ConfigError(
            f"--run {run_id} takes the agent and its settings from the run, and {', '.join(ignored)} would be ignored; "
            "leave them out, or leave out --run"
        )


@click.command("eval")
@click.argument("target", required=False)
@click.option("--data", required=True, metavar="FILE", help="Tasks: JSONL or CSV.")
@click.option(
    "--run", "run_id", metavar="RUN", help="Evaluate the newest weights of this run, as it was configured."
)
@run_options
@quiet_option
@json_option
def command(
    *,
    data: str,
    run_id: str | None,
    file: Path | None,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **flags: object,
) -> int:
    """Evaluate the agent TARGET on a file of tasks: mean outcome with its 95 % interval.

    Exits with 3 if some tasks have no outcome, with 1 if none has.
    """
    from agentlightning.jobs import evaluate_from_config

    settings = effective(file=file, assignments=assignments, flags=flags)
    config = settings.config
    if run_id is not None:
        _refuse_other_settings(settings, run_id)
    plugins = load_plugins()
    check_names(config, plugins)
    observers = listeners(quiet=quiet, configured=config.observers)
    with aside(as_json):
        report = evaluate_from_config(config, data, run=run_id, observers=observers, plugins=plugins)
    missing = [] if as_json or config.store.startswith("memory://") else without_outcome(report)
    cause = _cause(config.store, missing[0]) if missing else ""
    return show_evaluation(report, tasks=read_tasks(data), store=config.store, as_json=as_json, cause=cause)


def _cause(store: str, rollout_id: str) -> str:
    """Why a rollout has no outcome; empty if the store does not say: the evaluation is shown all the same."""

    async def job(opened: Store) -> Rollout:
        return await opened.rollouts.get(rollout_id)

    try:
        failure = with_store(store, job).failure
    except StoreError:
        return ""
    if failure is None:
        return "nothing says what it is worth; return a number, call agl.emit_reward, or name a --grader"
    return " ".join(failure.message.split())
