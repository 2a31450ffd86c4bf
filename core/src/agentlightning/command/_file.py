"""Commands in a TOML file, by name: a table each, with the fields of `CommandAgent`."""

from __future__ import annotations

import tomllib
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
    return decode_params(table, CommandAgent, where=f"{file}: the command {name!r}")


def _tables(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TargetError(
            f"there is no file {str(file)!r}; the working directory is {str(Path.cwd())!r}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}") from error
