"""What this plugin registers. Imports nothing heavy."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AppSpec


@hookimpl
def agl_register_apps() -> list[AppSpec]:
    """The gateway."""
    return [
        AppSpec(
            name="gateway",
            target="lightning_plugin_gateway:create_gateway",
            summary="Serves model calls over the OpenAI wire and records each with its tokens.",
            requires=("aiohttp>=3.11", "uvicorn>=0.34", "httptools>=0.6.3"),
            extra="lightning-plugin-gateway",
        )
    ]
