"""The server: the store over HTTP, OTLP, health, metrics and mounted apps, and the client of it.

Names are loaded when they are first used, so that listing plugins imports no web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_plugin_server._app import ServerApp, create_app
    from lightning_plugin_server._config import ServerConfig
    from lightning_plugin_server.client import HttpStore

__all__ = ["HttpStore", "ServerApp", "ServerConfig", "create_app"]

_MODULES = {"HttpStore": "client", "ServerApp": "_app", "ServerConfig": "_config", "create_app": "_app"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
