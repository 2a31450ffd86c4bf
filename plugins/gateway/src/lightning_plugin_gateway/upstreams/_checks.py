"""Checks an upstream's configuration once."""

from __future__ import annotations

import os

from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream
from lightning_plugin_gateway.upstreams._protocols import PROTOCOLS


def checked_wires(upstream: HttpUpstream) -> frozenset[str]:
    """The wires that it speaks. Raises `ConfigError` if one is unknown, or there is none."""
    unknown = [wire for wire in upstream.wires if wire not in PROTOCOLS]
    if unknown or not upstream.wires:
        known = ", ".join(map(repr, PROTOCOLS))
        raise ConfigError(f"`wires` of an upstream are {upstream.wires!r}; name at least one of {known}")
    return frozenset(upstream.wires)


def key_of(upstream: HttpUpstream) -> str:
    """Its key; empty for none. Raises `ConfigError` if the variable that is to hold it is not set."""
    if not upstream.api_key_env:
        return ""
    key = os.environ.get(upstream.api_key_env, "").strip()
    if not key:
        variable = upstream.api_key_env
        raise ConfigError(
            f"upstream {upstream.base_url!r} takes its key from {variable!r}, which is not set; set it"
        )
    return key
