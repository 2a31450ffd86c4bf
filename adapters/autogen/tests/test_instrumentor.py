"""The instrumentor by itself, in programs that know nothing of us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from agentlightning.agents import Adapter
from agentlightning.testing import InstrumentorContract
from lightning_adapter_autogen import AutoGenAdapter

PROGRAM = """
import asyncio
from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

info = dict(vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True)
client = OpenAIChatCompletionClient(model="m", base_url=base_url, api_key="k", model_info=info)
agent = AssistantAgent("calculator", model_client=client, tools=[add], reflect_on_tool_use=True)
asyncio.run(agent.run(task="1 + 2"))
"""


class TestAutoGenInstrumentor(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_autogen"
    dependencies: ClassVar[Sequence[str]] = ("autogen-agentchat >= 0.7.5, < 0.8",)
    program: ClassVar[str] = PROGRAM

    def make_adapter(self) -> Adapter:
        return AutoGenAdapter()
