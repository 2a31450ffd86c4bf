"""Configuration: typed sections from TOML, environment and flags, with unknown keys refused by name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agentlightning.errors import ConfigError

if TYPE_CHECKING:
    from agentlightning._layers import SWITCHES, EffectiveConfig, Setting, load_config
    from agentlightning._run_config import (
        DEFAULT_STORE,
        GatewaySection,
        PipelineSection,
        RunConfig,
        SamplingSection,
    )
    from agentlightning._tasks import read_tasks

__all__ = [
    "DEFAULT_STORE",
    "SWITCHES",
    "EffectiveConfig",
    "GatewaySection",
    "PipelineSection",
    "RunConfig",
    "SamplingSection",
    "Setting",
    "decode_params",
    "load_config",
    "read_tasks",
]

_HOMES = {
    "DEFAULT_STORE": "_run_config",
    "SWITCHES": "_layers",
    "EffectiveConfig": "_layers",
    "GatewaySection": "_run_config",
    "PipelineSection": "_run_config",
    "RunConfig": "_run_config",
    "SamplingSection": "_run_config",
    "Setting": "_layers",
    "load_config": "_layers",
    "read_tasks": "_tasks",
}
"""Loaded on first use: plugins want `decode_params` alone, and a run's configuration knows of everything."""

Section = TypeVar("Section", bound=msgspec.Struct)


def decode_params(params: Mapping[str, object], section: type[Section], *, where: str) -> Section:
    """Turns plain parameters into a typed section.

    Args:
        params: Keys and values, as from TOML.
        section: A msgspec struct with a default for each field that may be left out.
        where: What is being configured, for messages: `algorithm 'lightningrl'`.

    Raises:
        ConfigError: A key is unknown (the nearest valid name is given), missing, or has a wrong type.
    """
    known = [field.name for field in msgspec.structs.fields(section)]
    for key in params:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(sorted(known))}"
            raise ConfigError(f"{where} has no setting {key!r}; {hint}")
    try:
        return msgspec.convert(dict(params), type=section)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentlightning.config' has no attribute {name!r}")
    return getattr(importlib.import_module(f"agentlightning.{home}"), name)
