"""Points Anthropic's SDKs at the gateway, and captures calls. Names load on first use: hooks stay cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_adapter_anthropic._adapter import AnthropicAdapter
    from lightning_adapter_anthropic._claude_agent import ClaudeAgentAdapter
    from lightning_adapter_anthropic._instrumentor import AnthropicInstrumentor

__all__ = ["AnthropicAdapter", "AnthropicInstrumentor", "ClaudeAgentAdapter"]

_MODULES = {
    "AnthropicAdapter": "_adapter",
    "AnthropicInstrumentor": "_instrumentor",
    "ClaudeAgentAdapter": "_claude_agent",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
