"""Captures, binds and tunes the OpenAI Agents SDK. Names load on first use: hooks stay cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_adapter_openai_agents._adapter import OpenAIAgentsAdapter
    from lightning_adapter_openai_agents._instrumentor import OpenAIAgentsInstrumentor

__all__ = ["OpenAIAgentsAdapter", "OpenAIAgentsInstrumentor"]

_MODULES = {"OpenAIAgentsAdapter": "_adapter", "OpenAIAgentsInstrumentor": "_instrumentor"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
