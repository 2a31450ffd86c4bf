"""What `agl serve` tells the gateway that it mounts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agentlightning._settings import Path, nested
from agentlightning._upstreams import parse_upstream
from agentlightning.config import EffectiveConfig
from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream
from agentlightning.types import Json

GATEWAY: Final = "llm"
"""Name of the gateway among the apps that can be mounted."""


def gateway_options(
    upstreams: Sequence[str],
    *,
    file: EffectiveConfig | None = None,
    settings: Sequence[str] = (),
    observe: bool,
    unsafe: bool,
) -> Mapping[str, Json] | None:
    """The gateway's options; None without an upstream: there is no gateway then.

    Args:
        upstreams: Texts as `parse_upstream` takes them; the model `*` is every other one.
        file: Configuration whose models are served too; one of `upstreams` takes the place of a whole model.
        settings: Texts `NAME=VALUE`: of `GatewayConfig`, and of `HttpPolicy` below `http`.
        observe: Record calls that belong to no attempt.
        unsafe: Admit everybody.

    Raises:
        ConfigError: A text is something else, a model is given twice, or there is nothing to serve.
    """
    found = dict(_configured(file)) if file else {}
    given: set[str] = set()
    for text in upstreams:
        model, upstream = parse_upstream(text)
        if model in given:
            raise ConfigError(f"--upstream is given twice for model {model!r}; give it once")
        given.add(model)
        found[model] = upstream
    if not found:
        for flag, wanted in (("--observe", observe), ("--gateway-set", settings)):
            if wanted:
                raise ConfigError(
                    f"{flag} is about calls of models: give at least one --upstream MODEL=URL, or --gateway"
                )
        return None
    return {
        "upstreams": {model: msgspec.to_builtins(upstream) for model, upstream in found.items()},
        "observe": observe,
        "open": unsafe,
        "settings": _settings(settings),
    }


def _configured(file: EffectiveConfig) -> Mapping[str, HttpUpstream]:
    upstreams = file.config.gateway.upstreams
    if not upstreams:
        where = f"{str(file.file)!r} has" if file.file else "there is no agl.toml here with"
        raise ConfigError(
            f"--gateway serves the models of [gateway.upstreams], but {where} none; add"
            " [gateway.upstreams.MODEL] with a base_url, or name the file with --config"
        )
    return upstreams


def _settings(texts: Sequence[str]) -> dict[str, Json]:
    found: dict[Path, Json] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        path = tuple(part.strip() for part in name.split("."))
        if not separator or not all(path):
            raise ConfigError(f"--gateway-set takes NAME=VALUE, such as max_calls=500, got {text!r}")
        if path in found:
            raise ConfigError(f"--gateway-set gives {'.'.join(path)!r} twice; leave one out")
        found[path] = _value(value.strip())
    return nested(found)


def _value(text: str) -> Json:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if list(table) == ["value"] else text
