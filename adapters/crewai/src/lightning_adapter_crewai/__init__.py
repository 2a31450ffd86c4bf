"""Captures, binds and tunes CrewAI. Names load on first use: hooks stay cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_adapter_crewai._adapter import CrewAIAdapter
    from lightning_adapter_crewai._instrumentor import CrewAIInstrumentor

__all__ = ["CrewAIAdapter", "CrewAIInstrumentor"]

_MODULES = {"CrewAIAdapter": "_adapter", "CrewAIInstrumentor": "_instrumentor"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
