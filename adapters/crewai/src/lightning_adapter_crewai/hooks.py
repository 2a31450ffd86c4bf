"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of CrewAI."""
    return [
        AdapterSpec(
            name="crewai",
            target="lightning_adapter_crewai:CrewAIAdapter",
            summary="Captures, binds and tunes crews, flows and agents of CrewAI",
            requires=("crewai>=1.15.30,<2",),
            extra="lightning-adapter-crewai[instruments]",
            module="crewai",
        )
    ]
