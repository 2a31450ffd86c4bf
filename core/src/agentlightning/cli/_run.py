"""`agl run`: one rollout, shown as a tree."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from agentlightning.cli._exit import ExitCode
from agentlightning.cli._options import check_names, effective, json_option, run_options
from agentlightning.cli._output import aside
from agentlightning.cli._rollouts import read_rollout, show_trace
from agentlightning.cli._stores import with_store
from agentlightning.errors import ConfigError
from agentlightning.plugins import load_plugins
from agentlightning.types import Json, RolloutStatus


@click.command("run")
@click.argument("words", nargs=-1, required=True, metavar="[TARGET] TASK")
@run_options
@json_option
def command(
    *,
    words: tuple[str, ...],
    file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: object,
) -> int:
    """Run the agent TARGET once on TASK (JSON, else text) and print what it did, with its rewards.

    Without a TARGET the agent is that of the configuration, or the command line given with --command.
    """
    from agentlightning.jobs import run_once_from_config

    *target, task = words
    if len(target) > 1:
        raise click.UsageError(
            f"TARGET and TASK are two words, got {len(words)}; put a task with spaces into quotes"
        )
    flags["target"] = target[0] if target else None
    config = effective(file=file, assignments=assignments, flags=flags).config
    if not (config.target or config.agent):
        raise click.UsageError(
            f"there is no agent to work with: one word, {task!r}, is the TASK, and the configuration names no agent; "
            "give TARGET and TASK, or --command and TASK"
        )
    if config.store.startswith("memory://"):
        raise ConfigError(
            "a store in memory is gone before its trace is shown; leave --store out to keep one"
        )
    plugins = load_plugins()
    check_names(config, plugins)
    with aside(as_json):
        rollout = run_once_from_config(config, parse_task(task), plugins=plugins)
    found, attempts, chosen, spans = with_store(config.store, lambda store: read_rollout(store, rollout.id))
    show_trace(found, attempts=attempts, chosen=chosen, spans=spans, as_json=as_json)
    return ExitCode.OK if rollout.status is RolloutStatus.SUCCEEDED else ExitCode.FAILED


def parse_task(text: str) -> Json:
    """A task given on the command line: JSON if it is that, else text."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
