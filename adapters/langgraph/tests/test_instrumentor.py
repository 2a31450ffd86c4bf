"""The instrumentor by itself, in programs that know nothing of us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentlightning.agents import Adapter
from agentlightning.testing import InstrumentorContract
from lightning_adapter_langgraph import LangGraphAdapter

PROGRAM = """
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

@tool
def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

model = ChatOpenAI(model="m", base_url=base_url, api_key="k")
agent = create_agent(model, tools=[add], name="calculator")
def go_on(state):
    return END

builder = StateGraph(MessagesState).add_node("answer", agent).add_edge(START, "answer")
builder.add_conditional_edges("answer", go_on, [END])
builder.compile().invoke({"messages": [{"role": "user", "content": "1 + 2"}]})
"""


class TestLangGraphInstrumentor(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_langgraph"
    dependencies: ClassVar[Sequence[str]] = ("langgraph >= 1.1.5, < 2",)
    beside: ClassVar[Sequence[str]] = ("agl_langchain", "agl_openai")
    program: ClassVar[str] = PROGRAM
    expected: ClassVar[Mapping[str, str]] = {
        "decide go_on": "",
    }

    def make_adapter(self) -> Adapter:
        return LangGraphAdapter()
