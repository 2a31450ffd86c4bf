"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of AutoGen."""
    return [
        AdapterSpec(
            name="autogen",
            target="lightning_adapter_autogen:AutoGenAdapter",
            summary="Captures, binds and tunes agents and teams of AutoGen",
            requires=("autogen-agentchat>=0.7.5,<0.8",),
            extra="lightning-adapter-autogen[instruments]",
            module="autogen_agentchat",
        )
    ]
