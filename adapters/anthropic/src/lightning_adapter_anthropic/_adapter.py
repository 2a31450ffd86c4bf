"""The adapter: what agentlightning knows of the Anthropic SDK."""

from __future__ import annotations

from typing import ClassVar

from agentlightning.adapters import SdkAdapter
from lightning_adapter_anthropic._instrumentor import AnthropicInstrumentor


class AnthropicAdapter(SdkAdapter):
    """Captures the Anthropic SDK. Agents that use it are plain functions; their clients are bound by context."""

    name = "anthropic"
    sdk: ClassVar[str] = "Anthropic SDK"

    def __init__(self) -> None:
        super().__init__(AnthropicInstrumentor)
