"""Layers of configuration: defaults, one TOML file, the environment, flags; and where each value came from."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Final

import msgspec

from agentlightning._run_config import RunConfig
from agentlightning._settings import Path, UnknownSetting, dotted, flatten, nested, parse, schema_of
from agentlightning.errors import ConfigError
from agentlightning.types import Json

PREFIX: Final = "AGL_"
SWITCHES: Final[Mapping[str, str]] = {
    "AGL_CONFIG": "configuration file to read",
    "AGL_DISABLE": "plugins to leave out, separated by commas",
    "AGL_KEY": "key of a server",
    "AGL_PLUGINS": "exact list of plugins to load, separated by commas",
    "AGL_TRACE_PLUGINS": "1 prints every hook call on stderr",
}
"""Environment variables that are no settings of a run."""
DEFAULT_FILE: Final = FilePath("agl.toml")
"""Read from the working directory when no other file is named."""

_LAYERS: Final = ("default", "file", "env", "flag")
"""First words of a setting's source, the later ones over the earlier ones."""
_WHERE: Final = re.compile(r"(?P<message>.*) - at `(?P<place>.*)`", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting in effect.

    Attributes:
        source: `default`, `file agl.toml:3`, `env AGL_SEED` or `flag --seed`.
    """

    name: str
    value: Json
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveConfig:
    """A run's configuration, and where each value of it came from.

    Attributes:
        file: The file that was read, if any.
    """

    config: RunConfig
    file: FilePath | None
    sources: Mapping[str, str]

    def settings(self) -> list[Setting]:
        """Every setting in effect, in the order of `RunConfig`."""
        values = flatten(schema_of(RunConfig), msgspec.to_builtins(self.config))
        return [
            Setting(name=dotted(path), value=value, source=self.sources.get(dotted(path), "default"))
            for path, value in values
        ]


def load_config(
    file: FilePath | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    flags: Mapping[str, Json] | None = None,
    assignments: Sequence[str] = (),
) -> EffectiveConfig:
    """Puts the layers together: the environment over the file, flags over both.

    Args:
        file: TOML file; None takes `AGL_CONFIG`, else `agl.toml` in the working directory if there is one.
        environ: Environment variables: `AGL_SEED`, `AGL_GATEWAY__PORT`.
        flags: Values, or tables of them, by dotted setting; those that are None were not given.
        assignments: `setting=value`, the value in TOML or else plain text.

    Raises:
        ConfigError: Something is no setting, has the wrong type, or is said twice by flags; the file cannot be read.
    """
    chosen = _chosen_file(file, environ)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    values: dict[Path, Json] = {}
    sources: dict[str, str] = {}
    for layer in (
        _from_file(chosen),
        _from_environment(environ),
        _from_assignments(assignments),
        _from_flags(given),
    ):
        for path, (value, source) in layer.items():
            earlier = sources.get(dotted(path), "")
            if source.startswith("flag") and earlier.startswith("flag"):
                raise ConfigError(
                    f"{dotted(path)!r} is given twice: by {earlier} and by {source}; leave one out"
                )
            values[path] = value
            sources[dotted(path)] = source
    found = EffectiveConfig(config=_convert(values, sources), file=chosen, sources=sources)
    return _with_one_agent(found)


def _with_one_agent(found: EffectiveConfig) -> EffectiveConfig:
    """A target or a command, whichever is said in the later layer.

    A command that the file alone describes becomes a target in it, so that a run of it can be found again.
    """
    config, sources = found.config, found.sources
    told = [source for name, source in sources.items() if name.partition(".")[0] == "agent"]
    if not told:
        return found
    layers = {_LAYERS.index(source.partition(" ")[0]) for source in told}
    target = _LAYERS.index(sources.get("target", "default").partition(" ")[0])
    if config.target and target == max(layers):
        raise ConfigError(
            f"the agent is said twice: target = {config.target!r} ({sources['target']}) and a command ({told[-1]}); "
            "leave one out"
        )
    if config.target and target > max(layers):
        return replace(found, config=msgspec.structs.replace(config, agent={}))
    if found.file is not None and layers == {_LAYERS.index("file")}:
        config = msgspec.structs.replace(config, target=f"{found.file.resolve()}:agent", agent={})
        return replace(found, config=config, sources={**sources, "target": told[-1]})
    return replace(found, config=msgspec.structs.replace(config, target=""))


_Layer = dict[Path, tuple[Json, str]]


def _chosen_file(file: FilePath | None, environ: Mapping[str, str]) -> FilePath | None:
    if file is None and environ.get("AGL_CONFIG"):
        file = FilePath(environ["AGL_CONFIG"])
    if file is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    return file


def _from_file(file: FilePath | None) -> _Layer:
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8-sig")  # editors of Windows begin with a mark
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}; mend that line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {str(file)!r} cannot be read: {error}") from error
    layer: _Layer = {}
    for key, value in tables.items():
        try:
            settings = list(flatten(schema_of(RunConfig), {key: value}))
        except UnknownSetting as error:
            raise ConfigError(f"{file}{_line(text, dotted(error.path))}: {error}") from error
        layer |= {path: (one, f"file {file}{_line(text, dotted(path))}") for path, one in settings}
    return layer


def _line(text: str, name: str) -> str:
    """Line of a setting in the file, as `:3`; empty if it is written in a form too clever to find."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.fullmatch(r"\s*\[([^\[\]]+)\]\s*(#.*)?", line):
            table = [part.strip().strip("\"'") for part in header[1].split(".")]
            if dotted(table) == name:
                return f":{number}"
        elif key := re.match(r"\s*([\w.\"'*-]+)\s*=", line):
            full = dotted([*table, *(part.strip("\"'") for part in key[1].split("."))])
            if full == name or name.startswith(f"{full}."):
                return f":{number}"
    return ""


def _from_environment(environ: Mapping[str, str]) -> _Layer:
    schema = schema_of(RunConfig)
    layer: _Layer = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in SWITCHES:
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        try:
            layer[path] = (parse(schema, path, environ[name]), f"env {name}")
        except ConfigError as error:
            raise ConfigError(
                f"the environment variable {name!r} is unknown: {error} (unset it, or see `agl config --help`)"
            ) from error
    return layer


def _from_assignments(assignments: Sequence[str]) -> _Layer:
    layer: _Layer = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        path = tuple(part.strip() for part in name.split("."))
        if not separator or not all(path):
            raise ConfigError(f"--set takes 'setting=value', got {assignment!r}; for example --set seed=1")
        if path in layer:
            raise ConfigError(f"--set gives {dotted(path)!r} twice; leave one out")
        value = parse(schema_of(RunConfig), path, text.strip())
        layer |= {
            inner: (one, f"flag --set {dotted(inner)}")
            for inner, one in flatten(schema_of(RunConfig), nested({path: value}))
        }
    return layer


def _from_flags(flags: Mapping[str, Json]) -> _Layer:
    layer: _Layer = {}
    for name, value in flags.items():
        source = f"flag --{name.replace('.', '-').replace('_', '-')}"
        settings = flatten(schema_of(RunConfig), nested({tuple(name.split(".")): value}))
        layer |= {path: (one, source) for path, one in settings}
    return layer


def _convert(values: Mapping[Path, Json], sources: Mapping[str, str]) -> RunConfig:
    try:
        return msgspec.convert(nested(values), type=RunConfig)
    except msgspec.ValidationError as error:
        match = _WHERE.fullmatch(str(error))
        if match is None:
            raise ConfigError(f"the configuration cannot be used: {error}") from error
        name = match["place"].removeprefix("$").removeprefix(".")
        found = next((source for key, source in sources.items() if key == name), "")
        value = next((repr(one) for path, one in values.items() if dotted(path) == name), "")
        detail = f", got {value} ({found})" if found else ""
        expected = match["message"].partition(", got ")[0] if found else match["message"]
        raise ConfigError(f"{name}: {expected[:1].lower()}{expected[1:].replace('`', '')}{detail}") from error
