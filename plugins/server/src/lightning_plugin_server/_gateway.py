"""What `agl serve` tells the gateway that it mounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agentlightning.errors import ConfigError
from agentlightning.types import Json

GATEWAY: Final = "llm"
"""Name of the gateway among the apps that can be mounted."""


def gateway_options(upstreams: Sequence[str], *, observe: bool, unsafe: bool) -> Mapping[str, Json] | None:
    """The gateway's options; None without an upstream: there is no gateway then.

    Args:
        upstreams: Texts `MODEL=URL`; the model `*` is every other one.
        observe: Record calls that belong to no attempt.
        unsafe: Admit everybody.

    Raises:
        ConfigError: A text is something else, a model is given twice, or there is nothing to observe.
    """
    if not upstreams:
        if observe:
            raise ConfigError("--observe records calls of models: give at least one --upstream MODEL=URL")
        return None
    found: dict[str, Json] = {}
    for text in upstreams:
        model, separator, url = text.partition("=")
        if not (separator and model and url.startswith(("http://", "https://"))):
            raise ConfigError(
                f"--upstream takes MODEL=URL, such as '*=http://127.0.0.1:8000/v1', got {text!r}"
            )
        if model in found:
            raise ConfigError(f"--upstream is given twice for model {model!r}; give it once")
        found[model] = {"base_url": url}
    return {"upstreams": found, "observe": observe, "open": unsafe}
