"""`agl eval`: an evaluation on a file of tasks."""

from __future__ import annotations

from pathlib import Path

import click

from agentlightning.cli._options import check_names, effective, json_option, quiet_option, run_options
from agentlightning.cli._results import listeners, show_evaluation
from agentlightning.config import EffectiveConfig, read_tasks
from agentlightning.errors import ConfigError
from agentlightning.plugins import load_plugins


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
    report = evaluate_from_config(config, data, run=run_id, observers=observers, plugins=plugins)
    return show_evaluation(report, tasks=read_tasks(data), store=config.store, as_json=as_json)
