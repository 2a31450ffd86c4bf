"""Which of CrewAI's models ride on an SDK whose adapter records and binds their calls."""

from __future__ import annotations

import sys
from typing import Final

from agentlightning.capture.instrumentations import at_work

_PROVIDERS: Final = (
    (
        "crewai.llms.providers.openai.completion",
        "OpenAICompletion",
        "lightning_adapter_openai",
        "OpenAIInstrumentor",
    ),
    (
        "crewai.llms.providers.anthropic.completion",
        "AnthropicCompletion",
        "lightning_adapter_anthropic",
        "AnthropicInstrumentor",
    ),
)


def recorded_below(llm: object) -> bool:
    """Whether a model's calls get a span from the adapter of its SDK."""
    for module, provider, adapter, instrumentor in _PROVIDERS:
        if module in sys.modules and isinstance(llm, getattr(sys.modules[module], provider)):
            return at_work(adapter, instrumentor)
    return False
