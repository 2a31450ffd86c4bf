"""An agent as AutoGen's quick start has it."""

from __future__ import annotations

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

agent = AssistantAgent(
    "guide",
    model_client=OpenAIChatCompletionClient(model="gpt-4o-mini"),
    system_message="You answer with one word.",
)
