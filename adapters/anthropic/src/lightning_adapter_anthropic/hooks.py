"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of the Anthropic SDK."""
    return [
        AdapterSpec(
            name="anthropic",
            target="lightning_adapter_anthropic:AnthropicAdapter",
            summary="Captures the Anthropic SDK and points its clients at the gateway",
            requires=("anthropic>=1,<3",),
            extra="lightning-adapter-anthropic[instruments]",
            module="anthropic",
        )
    ]
