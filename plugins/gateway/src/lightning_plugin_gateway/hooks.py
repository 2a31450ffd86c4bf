"""What this plugin registers. Imports nothing heavy."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AppSpec

_REQUIRES = ("aiohttp>=3.11", "uvicorn>=0.34", "httptools>=0.6.3")
_EXTRA = "lightning-plugin-gateway"


@hookimpl
def agl_register_apps() -> list[AppSpec]:
    """The gateway: in the trainer's process, and mounted in a server that is given upstreams."""
    return [
        AppSpec(
            name="gateway",
            target="lightning_plugin_gateway:create_gateway",
            summary="Serves model calls over every wire and records each with its tokens.",
            requires=_REQUIRES,
            extra=_EXTRA,
        ),
        AppSpec(
            name="llm",
            target="lightning_plugin_gateway:create_app",
            summary="the gateway in `agl serve --upstream MODEL=URL`",
            requires=_REQUIRES,
            extra=_EXTRA,
            mount="/",
            public=True,  # it verifies keys itself, by the server's ring: an agent's key may come in the URL
        ),
    ]
