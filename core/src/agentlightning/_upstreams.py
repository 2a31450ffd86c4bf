"""Models behind the gateway, as `--upstream MODEL=URL[,NAME=VALUE…]` says them."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agentlightning._settings import Path, UnknownSetting, nested, parse, schema_of
from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream
from agentlightning.types import Json

_SCHEMES: Final = ("http://", "https://", "http+unix://")
_EXAMPLE: Final = "'*=http://127.0.0.1:8000/v1' or 'small=https://api.example/v1,api_key_env=EXAMPLE_KEY'"
_PASSWORD: Final = re.compile(r"//[^/@]*@")


def parse_upstream(text: str) -> tuple[str, HttpUpstream]:
    """A model's name, and what serves it.

    Args:
        text: The name, its URL, then settings of `HttpUpstream` and URLs of replicas: `small=http://a/v1,http://b/v1,
            wires=chat+messages,price.prompt=0.15,price.response=0.6`. Values are TOML, or else plain text.

    Raises:
        ConfigError: It is something else. Values are not repeated in the message: one may be a key.
    """
    model, _, rest = text.partition("=")
    url, *parts = rest.split(",")
    if not (model and url.startswith(_SCHEMES)):
        shown = _PASSWORD.sub("//***@", text.partition(",")[0])
        raise ConfigError(f"--upstream takes MODEL=URL, such as {_EXAMPLE}, got {shown!r}")
    replicas = [part for part in parts if part.startswith(_SCHEMES)]
    settings: dict[Path, Json] = {("base_url",): url}
    if replicas:
        settings["replicas",] = [*replicas]
    for part in parts:
        if part not in replicas:
            path, value = _setting(part, model=model)
            if path in settings:
                raise ConfigError(f"--upstream {model!r} gives {'.'.join(path)!r} twice; leave one out")
            settings[path] = value
    try:
        return model, msgspec.convert(nested(settings), HttpUpstream)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--upstream {model!r}: {error}") from error


def _setting(part: str, *, model: str) -> tuple[Path, Json]:
    name, separator, text = part.partition("=")
    path = tuple(name.strip().split("."))
    if not separator:
        raise ConfigError(
            f"--upstream {model!r}: what comes after its URL is NAME=VALUE, or the URL of a replica"
        )
    if path == ("wires",):  # commas stand between settings already
        text = text.replace("+", ",")
    try:
        return path, parse(schema_of(HttpUpstream), path, text.strip())
    except UnknownSetting as error:
        raise ConfigError(f"--upstream {model!r}: {error}") from error
