"""Checks an upstream's configuration once."""

from __future__ import annotations

import math
import os
import re
from typing import Final

from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream
from lightning_plugin_gateway.upstreams._protocols import WIRES

_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def checked_wires(upstream: HttpUpstream) -> frozenset[str]:
    """The wires that it speaks. Raises `ConfigError` if one is unknown, or there is none."""
    unknown = [wire for wire in upstream.wires if wire not in WIRES]
    if unknown or not upstream.wires:
        known = ", ".join(map(repr, WIRES))
        raise ConfigError(f"`wires` of an upstream are {upstream.wires!r}; name at least one of {known}")
    return frozenset(upstream.wires)


def key_of(upstream: HttpUpstream) -> str:
    """Its key; empty for none. Raises `ConfigError` if the variable that is to hold it is not set."""
    if not upstream.api_key_env:
        return ""
    key = os.environ.get(upstream.api_key_env, "").strip()
    if not key:
        variable = _shown(upstream.api_key_env)
        raise ConfigError(
            f"upstream {upstream.base_url!r} takes its key from {variable}, which is not set; set it"
        )
    return key


def check_bounds(upstream: HttpUpstream) -> None:
    """Raises `ConfigError` if a number of an upstream's is below zero or none."""
    price = upstream.price
    numbers: dict[str, float] = {"max_concurrency": upstream.max_concurrency}
    if price:
        numbers |= {"price.prompt": price.prompt, "price.response": price.response}
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"`{name}` of an upstream is {value!r}; it must be a number of at least 0")


def _shown(variable: str) -> str:
    """The name of a variable, unless somebody gave the key itself in its place."""
    if _VARIABLE.fullmatch(variable):
        return repr(variable)
    return "a variable whose name is not shown here, as it looks more like a key than like a name"
