"""The instrumentor by itself, in programs that know nothing of us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentlightning.agents import Adapter
from agentlightning.testing import InstrumentorContract
from lightning_adapter_agent_framework import AgentFrameworkAdapter

PROGRAM = """
import asyncio
from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient

def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

client = OpenAIChatCompletionClient(model="m", api_key="k", base_url=base_url)
asyncio.run(Agent(client, name="calculator", tools=[add]).run("1 + 2"))
"""


class TestAgentFrameworkInstrumentor(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_agent_framework"
    dependencies: ClassVar[Sequence[str]] = ("agent-framework-core >= 1.23, < 2",)
    program: ClassVar[str] = PROGRAM
    expected: ClassVar[Mapping[str, str]] = {  # content is up to the framework's own switch
        "invoke_agent calculator": "",
        "execute_tool add": "",
    }

    def make_adapter(self) -> Adapter:
        return AgentFrameworkAdapter()
