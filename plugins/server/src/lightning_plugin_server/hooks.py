"""What this plugin registers. Imports nothing heavy."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import CommandSpec, StoreSpec

_REQUIRES = ("aiohttp>=3.11", "uvicorn>=0.34", "httptools>=0.6.3")
_EXTRA = "lightning-plugin-server"


@hookimpl
def agl_register_commands() -> list[CommandSpec]:
    """`agl serve` and `agl token`."""
    return [
        CommandSpec(
            name="serve",
            target="lightning_plugin_server.cli:serve",
            summary="serve a store over HTTP, with OTLP and the apps that plugins bring",
            requires=_REQUIRES,
            extra=_EXTRA,
        ),
        CommandSpec(
            name="token",
            target="lightning_plugin_server.cli:token",
            summary="make a key of limited scope for a server",
            extra=_EXTRA,
        ),
    ]


@hookimpl
def agl_register_stores() -> list[StoreSpec]:
    """A store behind a server."""
    return [
        StoreSpec(
            name=scheme,
            target="lightning_plugin_server.client:HttpStore",
            summary="a store behind `agl serve`",
            requires=_REQUIRES[:1],
            extra=_EXTRA,
        )
        for scheme in ("http", "https")
    ]
