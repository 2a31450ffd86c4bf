"""Exit codes, and errors as one line for people or as JSON for machines."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum

import click

from agentlightning.cli._output import print_json
from agentlightning.errors import (
    AglError,
    BudgetExhausted,
    ConfigError,
    Interrupted,
    PluginError,
    TargetError,
    in_full,
)


class ExitCode(IntEnum):
    """What `agl` exits with.

    Attributes:
        OK: All was done.
        FAILED: The work failed.
        USAGE: A flag, setting, file, target or plugin cannot be used; nothing was started.
        PARTIAL: Part of the work was done: the budget ran out, or some tasks have no outcome.
        INTERRUPTED: Stopped by Ctrl-C; the message says how to resume.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    INTERRUPTED = 130


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code of an error."""
    match error:
        case Interrupted() | click.Abort() | KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case BudgetExhausted():
            return ExitCode.PARTIAL
        case click.UsageError() | ConfigError() | TargetError() | PluginError():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def report(error: BaseException, *, arguments: Sequence[str], debug: bool) -> ExitCode:
    """Prints an error the way it was asked for, and says what to exit with."""
    code = exit_code_of(error)
    if debug:
        traceback.print_exception(error)
    message = _message(error, arguments)
    if wants_json(arguments):
        print_json({"error": {"type": type(error).__name__, "message": message, "exit_code": int(code)}})
    else:
        print(f"error: {message}", file=sys.stderr)
    return code


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the caller is a machine, also where the arguments could not be parsed."""
    before_separator = list(arguments)
    if "--" in before_separator:
        before_separator = before_separator[: before_separator.index("--")]
    return "--json" in before_separator


def _message(error: BaseException, arguments: Sequence[str]) -> str:
    match error:
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "agl"
            return f"{error.format_message()} (see: {path} --help)"
        case click.ClickException():
            return error.format_message()
        case click.Abort() | KeyboardInterrupt():
            return "interrupted"
        case AglError():
            return " ".join(in_full(error).split())
        case _:
            text = " ".join(in_full(error).split())
            again = " ".join(["agl", "--debug", *(one for one in arguments if one != "--debug")])
            return f"{type(error).__name__}: {text}; for the traceback run: {again}"
