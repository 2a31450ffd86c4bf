"""`agl train`: a training run."""

from __future__ import annotations

from pathlib import Path

import click

from agentlightning.cli._options import check_names, effective, json_option, quiet_option, run_options
from agentlightning.cli._output import aside
from agentlightning.cli._results import listeners, show_training
from agentlightning.plugins import load_plugins


@click.command("train")
@click.argument("target", required=False)
@click.option("--train", metavar="FILE", help="Training tasks: JSONL or CSV.")
@click.option("--val", metavar="FILE", help="Held-out tasks: JSONL or CSV.")
@click.option("--resume", metavar="RUN", help="Go on with this run of the store, as it was configured.")
@run_options
@quiet_option
@json_option
def command(
    *,
    file: Path | None,
    assignments: tuple[str, ...],
    resume: str | None,
    quiet: bool,
    as_json: bool,
    **flags: object,
) -> int:
    """Train the agent TARGET: 'module:object' or 'file.py:object', a function or a framework object.

    Settings come from flags, the environment (AGL_*) and a TOML file, in that order; `agl config` shows them.
    Ctrl-C once stops cleanly and says how to resume.
    """
    from agentlightning.jobs import train_from_config

    config = effective(file=file, assignments=assignments, flags=flags).config
    plugins = load_plugins()
    check_names(config, plugins)
    observers = listeners(quiet=quiet, configured=config.observers)
    with aside(as_json):
        result = train_from_config(config, resume=resume, observers=observers, plugins=plugins)
    return show_training(result, as_json=as_json)
