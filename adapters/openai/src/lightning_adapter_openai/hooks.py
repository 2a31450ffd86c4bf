"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of the OpenAI SDK."""
    return [
        AdapterSpec(
            name="openai",
            target="lightning_adapter_openai:OpenAIAdapter",
            summary="Captures the OpenAI SDK and points its clients at the gateway",
            requires=("openai>=2,<4",),
            extra="lightning-adapter-openai[instruments]",
            module="openai",
        )
    ]
