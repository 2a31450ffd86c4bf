"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of the OpenAI Agents SDK."""
    return [
        AdapterSpec(
            name="openai-agents",
            target="lightning_adapter_openai_agents:OpenAIAgentsAdapter",
            summary="Captures, binds and tunes agents of the OpenAI Agents SDK",
            requires=("openai-agents>=0.24,<0.25",),
            extra="lightning-adapter-openai-agents[instruments]",
            module="agents",
        )
    ]
