"""Registers the adapter; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapter of LangChain."""
    return [
        AdapterSpec(
            name="langchain",
            target="lightning_adapter_langchain:LangChainAdapter",
            summary="Captures, binds and tunes LangChain's models, chains, tools and agents",
            requires=("langchain-core>=1.2.18,<2",),
            extra="lightning-adapter-langchain[instruments]",
            module="langchain_core",
        )
    ]
