"""Captures the OpenAI SDK and points its clients at the gateway."""

from lightning_adapter_openai._adapter import OpenAIAdapter
from lightning_adapter_openai._instrumentor import OpenAIInstrumentor

__all__ = ["OpenAIAdapter", "OpenAIInstrumentor"]
