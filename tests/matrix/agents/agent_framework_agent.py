"""An agent as Microsoft Agent Framework's quick start has it."""

from __future__ import annotations

from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient

agent = Agent(
    client=OpenAIChatCompletionClient(model="gpt-4o-mini"),
    name="guide",
    instructions="You answer with one word.",
)
