"""The gateway: serves model calls over the OpenAI wire and records each with token ids and log-probabilities.

Names are loaded when they are first used, so that listing plugins imports no web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_plugin_gateway._gateway import LocalGateway, create_gateway
    from lightning_plugin_gateway._http_model import HttpPolicy

__all__ = ["HttpPolicy", "LocalGateway", "create_gateway"]

_MODULES = {"HttpPolicy": "_http_model", "LocalGateway": "_gateway", "create_gateway": "_gateway"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
