"""Captures, binds and tunes Microsoft Agent Framework. Names load on first use: hooks stay cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_adapter_agent_framework._adapter import AgentFrameworkAdapter
    from lightning_adapter_agent_framework._instrumentor import AgentFrameworkInstrumentor

__all__ = ["AgentFrameworkAdapter", "AgentFrameworkInstrumentor"]

_MODULES = {"AgentFrameworkAdapter": "_adapter", "AgentFrameworkInstrumentor": "_instrumentor"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
