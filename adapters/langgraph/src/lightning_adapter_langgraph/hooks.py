"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of LangGraph."""
    return [
        AdapterSpec(
            name="langgraph",
            target="lightning_adapter_langgraph:LangGraphAdapter",
            summary="Captures, binds and tunes LangGraph's graphs: nodes, branches, handoffs",
            requires=("langgraph>=1.1.5,<2",),
            extra="lightning-adapter-langgraph[instruments]",
            module="langgraph",
        )
    ]
