"""Commands in a TOML file, by name: a table each, with the fields of `CommandAgent`."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path

from agentlightning.command._agent import CommandAgent
from agentlightning.config import decode_params
from agentlightning.errors import ConfigError, TargetError


def load_command(file: Path, name: str) -> CommandAgent:
    """The command that a file has under a name. Its `folder` and `parent` are relative to the file.

    Raises:
        TargetError: There is no such file, or nothing of that name in it.
        ConfigError: The file is not TOML, or the command cannot be used.
    """
    tables = _tables(file)
    if name not in tables:
        has = ", ".join(sorted(tables)) or "none"
        raise TargetError(f"{str(file)!r} has no command {name!r}; it has {has}")
    table = tables[name]
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: {name!r} is {table!r:.80}; write the table [{name}] with argv = [...]")
    for key in ("folder", "parent"):
        if isinstance(table.get(key), str):
            table[key] = str(file.resolve().parent / table[key])
    return command_of(table, where=f"{file}: the command {name!r}")


def command_of(table: Mapping[str, object], *, where: str) -> CommandAgent:
    """The command that a table describes with the fields of `CommandAgent`.

    Args:
        table: The fields; in place of `argv`, `command` may have the words, or all of them in one line, in which
            quotes and backslashes mean what they mean to a shell, and nothing else does.
        where: Where it stands, for messages.

    Raises:
        ConfigError: A field is unknown, or the command cannot be used.
        TargetError: There is no such program.
    """
    fields = dict(table)
    command = fields.pop("command", None)
    if command is not None:
        if "argv" in fields:
            raise ConfigError(f"{where} has command and argv, which are the same; leave one out")
        fields["argv"] = _words(command, where=where) if isinstance(command, str) else command
    return decode_params(fields, CommandAgent, where=where)


def _words(line: str, *, where: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"{where}: the command {line!r} cannot be read: {error}") from error


def _tables(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TargetError(
            f"there is no file {str(file)!r}; the working directory is {str(Path.cwd())!r}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}") from error
