"""Captures, binds and tunes LangChain. Names load on first use: hooks stay cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_adapter_langchain._adapter import LangChainAdapter
    from lightning_adapter_langchain._graphs import is_agent
    from lightning_adapter_langchain._instrumentor import LangChainInstrumentor
    from lightning_adapter_langchain._reader import ChainEnd, ChainStart, GraphReader

__all__ = [
    "ChainEnd",
    "ChainStart",
    "GraphReader",
    "LangChainAdapter",
    "LangChainInstrumentor",
    "is_agent",
]

_MODULES = {
    "ChainEnd": "_reader",
    "ChainStart": "_reader",
    "GraphReader": "_reader",
    "LangChainAdapter": "_adapter",
    "LangChainInstrumentor": "_instrumentor",
    "is_agent": "_graphs",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
