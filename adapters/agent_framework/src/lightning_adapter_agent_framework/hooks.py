"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of Microsoft Agent Framework."""
    return [
        AdapterSpec(
            name="agent-framework",
            target="lightning_adapter_agent_framework:AgentFrameworkAdapter",
            summary="Captures, binds and tunes agents and workflows of Microsoft Agent Framework",
            requires=("agent-framework-core>=1.23,<2",),
            extra="lightning-adapter-agent-framework[instruments]",
            module="agent_framework",
        )
    ]
