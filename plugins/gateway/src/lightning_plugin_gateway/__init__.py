"""The gateway: serves model calls over every wire and records each with token ids and log-probabilities.

Names are loaded when they are first used, so that listing plugins imports no web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_plugin_gateway._gateway import LocalGateway, create_gateway
    from lightning_plugin_gateway._mount import MountedGateway, create_app
    from lightning_plugin_gateway.upstreams import HttpPolicy

__all__ = ["HttpPolicy", "LocalGateway", "MountedGateway", "create_app", "create_gateway"]

_MODULES = {
    "HttpPolicy": "upstreams",
    "LocalGateway": "_gateway",
    "MountedGateway": "_mount",
    "create_app": "_mount",
    "create_gateway": "_gateway",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
