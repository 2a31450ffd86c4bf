"""Dialects of tracing: how other instrumentations say what GenAI conventions have one word for."""

from agentlightning.pipeline.dialects._agentops import agentops
from agentlightning.pipeline.dialects._chat import chat_messages, chat_tools
from agentlightning.pipeline.dialects._meaning import Dialect, Meaning
from agentlightning.pipeline.dialects._openinference import openinference
from agentlightning.pipeline.dialects._openllmetry import openllmetry
from agentlightning.pipeline.dialects._opentelemetry import opentelemetry

__all__ = [
    "Dialect",
    "Meaning",
    "agentops",
    "chat_messages",
    "chat_tools",
    "openinference",
    "openllmetry",
    "opentelemetry",
]
