"""Configuration: typed sections from TOML, environment and flags, with unknown keys refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from agentlightning._layers import SWITCHES, EffectiveConfig, Setting, load_config
from agentlightning._run_config import (
    DEFAULT_STORE,
    GatewaySection,
    PipelineSection,
    RunConfig,
    SamplingSection,
)
from agentlightning._tasks import read_tasks
from agentlightning.errors import ConfigError

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
