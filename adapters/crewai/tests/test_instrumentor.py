"""The instrumentor by itself, in programs that know nothing of us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from agentlightning.agents import Adapter
from agentlightning.testing import InstrumentorContract
from lightning_adapter_crewai import CrewAIAdapter

PROGRAM = """
from crewai import LLM, Agent
from crewai.tools import tool

@tool("add")
def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

llm = LLM(model="openai/m", base_url=base_url, api_key="k")
Agent(role="calculator", goal="Adds.", backstory="Careful.", llm=llm, tools=[add]).kickoff("1 + 2")
"""


class TestCrewAIInstrumentor(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_crewai"
    dependencies: ClassVar[Sequence[str]] = ("crewai >= 1.15.30, < 2",)
    program: ClassVar[str] = PROGRAM

    def make_adapter(self) -> Adapter:
        return CrewAIAdapter()
