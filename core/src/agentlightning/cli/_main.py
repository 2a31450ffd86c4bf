"""Entry point of `agl`: finds commands without importing them, and turns errors into exit codes."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence

import click

from agentlightning.builtin import COMMANDS
from agentlightning.cli._exit import report
from agentlightning.errors import PluginError
from agentlightning.plugins import load_plugins
from agentlightning.specs import CommandSpec

_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 done in part, 130 interrupted. "
    "--json prints for machines."
)


class CommandTable(click.Group):
    """Commands by their specs: built-in ones are known without loading plugins, and none is imported to be listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names of all commands."""
        return sorted(_specs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports one command."""
        builtin = {spec.name: spec for spec in COMMANDS}
        if cmd_name in builtin:
            module, _, name = builtin[cmd_name].target.partition(":")
            command: object = getattr(importlib.import_module(module), name)
        else:
            plugins = load_plugins()
            command = plugins.load(plugins.find(CommandSpec, cmd_name))
        if not isinstance(command, click.Command):
            raise PluginError(
                f"the command {cmd_name!r} is {command!r}, not a click.Command; update its plugin"
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Lists the commands by their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, spec.summary) for name, spec in sorted(_specs().items())])


def _specs() -> Mapping[str, CommandSpec]:
    """Specs of all commands; of the built-in ones alone while a plugin that was named is broken."""
    builtin = {spec.name: spec for spec in COMMANDS}
    try:
        return builtin | load_plugins().commands()
    except PluginError as error:
        click.echo(f"warning: only built-in commands are listed: {error}", err=True)
        return builtin


@click.group(
    cls=CommandTable,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.version_option(package_name="agentlightning-core", prog_name="agl")
def cli(debug: bool) -> None:
    """Train any LLM agent without changing it."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s" if debug else "%(message)s",
        stream=sys.stderr,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `agl` and returns its exit code."""
    _make_streams_bear_it()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        given = ["--help"]
    try:
        result: object = cli.main(args=list(given), prog_name="agl", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - everything becomes one line at the outermost border
        return int(report(error, arguments=given, debug="--debug" in _global_options(given)))
    return int(result) if isinstance(result, int) else 0


def _make_streams_bear_it() -> None:
    """What a stream's encoding lacks becomes `?`, and a closed stream takes all: neither costs a result."""
    for name in ("stdout", "stderr"):
        stream: object = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - for the process
        elif name == "stdout" and isinstance(stream, io.TextIOWrapper):  # stderr escapes by itself
            stream.reconfigure(errors="replace")


def _global_options(arguments: Sequence[str]) -> list[str]:
    """The options before the command's name."""
    options: list[str] = []
    for argument in arguments:
        if not argument.startswith("-"):
            break
        options.append(argument)
    return options
