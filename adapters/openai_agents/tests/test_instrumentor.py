"""The instrumentor by itself, in programs that know nothing of us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from agentlightning.agents import Adapter
from agentlightning.testing import InstrumentorContract
from lightning_adapter_openai_agents import OpenAIAgentsAdapter

PROGRAM = """
import openai
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool

@function_tool
def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

client = openai.AsyncOpenAI(base_url=base_url, api_key="k")
model = OpenAIChatCompletionsModel(model="m", openai_client=client)
Runner.run_sync(Agent(name="calculator", tools=[add], model=model), "1 + 2")
"""


class TestOpenAIAgentsInstrumentor(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_openai_agents"
    dependencies: ClassVar[Sequence[str]] = ("openai-agents >= 0.24, < 0.25",)
    program: ClassVar[str] = PROGRAM

    def make_adapter(self) -> Adapter:
        return OpenAIAgentsAdapter()
