"""Three agents in turns, as AutoGen's tutorial on teams has them."""

from __future__ import annotations

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

model_client = OpenAIChatCompletionClient(model="gpt-4o-mini")
planner = AssistantAgent("planner", model_client=model_client, system_message="You plan.")
writer = AssistantAgent("writer", model_client=model_client, system_message="You write.")
critic = AssistantAgent("critic", model_client=model_client, system_message="You judge.")
agent = RoundRobinGroupChat([planner, writer, critic], max_turns=3)
