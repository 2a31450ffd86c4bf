"""The adapter: what agentlightning knows of the OpenAI SDK."""

from __future__ import annotations

from typing import ClassVar

from agentlightning.adapters import SdkAdapter
from lightning_adapter_openai._instrumentor import OpenAIInstrumentor


class OpenAIAdapter(SdkAdapter):
    """Captures the OpenAI SDK. Agents that use it are plain functions; their clients are bound by context."""

    name = "openai"
    sdk: ClassVar[str] = "OpenAI SDK"

    def __init__(self) -> None:
        super().__init__(OpenAIInstrumentor)
