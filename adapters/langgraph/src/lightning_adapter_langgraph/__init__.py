"""Captures, binds and tunes LangGraph. Names load on first use: hooks stay cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_adapter_langgraph._adapter import LangGraphAdapter
    from lightning_adapter_langgraph._instrumentor import LangGraphInstrumentor

__all__ = ["LangGraphAdapter", "LangGraphInstrumentor"]

_MODULES = {"LangGraphAdapter": "_adapter", "LangGraphInstrumentor": "_instrumentor"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
