"""The LangGraph adapter passes the contract of frameworks, with graphs written as the tutorials write them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import openai
from langchain.agents import create_agent
from langchain_core.messages import SystemMessage
from langchain_core.runnables import config
from langchain_core.tools import StructuredTool
from langchain_core.tracers import context
from langchain_openai import ChatOpenAI
from langgraph._internal import _runnable
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph._branch import BranchSpec
from langgraph.pregel import Pregel

from agentlightning.agents import Adapter
from agentlightning.testing import FrameworkContract, ScriptedAnswer, ScriptedReply
from lightning_adapter_langchain import LangChainInstrumentor
from lightning_adapter_langgraph import LangGraphAdapter

KEY, MODEL = "users-own-key", "users-own-model"


class Models:
    """Chat models on connections that are closed with the block."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def __enter__(self) -> ChatOpenAI:
        self._http = openai.DefaultHttpxClient(verify=False)
        self._http_async = openai.DefaultAsyncHttpxClient(verify=False)
        return ChatOpenAI(
            model=MODEL,
            base_url=self._base_url,
            api_key=KEY,
            max_retries=0,
            http_client=self._http,
            http_async_client=self._http_async,
        )

    def __exit__(self, *_: object) -> None:
        self._http.close()

    async def __aenter__(self) -> ChatOpenAI:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self._http.close()
        await self._http_async.aclose()


def graph_of(model: ChatOpenAI, *, sync: bool = False) -> Any:
    system = SystemMessage("You are a helpful assistant.")

    async def acall_model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([system, *state["messages"]])]}

    def call_model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke([system, *state["messages"]])]}

    builder = StateGraph(MessagesState)
    builder.add_node("call_model", call_model if sync else acall_model)
    builder.add_edge(START, "call_model")
    builder.add_conditional_edges("call_model", lambda _: END, [END])
    return builder.compile()


def question(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


class TestLangGraphAdapter(FrameworkContract):
    hooks: ClassVar[str] = "lightning_adapter_langgraph.hooks"
    team: ClassVar[Sequence[str]] = ("writer", "critic")
    team_replies: ClassVar[Sequence[ScriptedReply]] = (
        ScriptedAnswer(text="a text"),
        ScriptedAnswer(text="fine"),
    )

    def make_adapter(self) -> Adapter:
        return LangGraphAdapter()

    def originals(self) -> Sequence[object]:
        return [
            config._set_config_context,
            _runnable._set_config_context,
            *(Pregel.__dict__[name] for name in ("stream", "astream")),
            BranchSpec.__dict__["_finish"],
            *(hook[0] for hook in context._configure_hooks),
            *LangChainInstrumentor.readers,
        ]

    async def ask(self, base_url: str, text: str) -> object:
        async with Models(base_url) as model:
            return await graph_of(model).ainvoke(question(text))

    def ask_in_thread(self, base_url: str, text: str) -> object:
        with Models(base_url) as model:
            return graph_of(model, sync=True).invoke(question(text))

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with Models(base_url) as model:
            parts = graph_of(model).astream(question(text), stream_mode="messages")
            async with aclosing(parts):
                async for message, _ in parts:
                    yield message.text

    def text_of(self, result: object) -> str:
        assert isinstance(result, dict)
        return str(result["messages"][-1].content)

    @asynccontextmanager
    async def make_agent(self, base_url: str) -> AsyncIterator[object]:
        async with Models(base_url) as model:
            add = StructuredTool.from_function(self.add, description=self.tool_description)
            agent = create_agent(model, tools=[add], system_prompt=self.prompt, name=self.agent_name)
            builder = StateGraph(MessagesState).add_node("answer", agent)
            yield builder.add_edge(START, "answer").add_edge("answer", END).compile()

    @asynccontextmanager
    async def make_team(self, base_url: str) -> AsyncIterator[object]:
        async with Models(base_url) as model:
            builder = StateGraph(MessagesState)
            for name in self.team:
                builder.add_node(
                    name, create_agent(model, tools=[], system_prompt=f"You are the {name}.", name=name)
                )
            yield builder.add_edge(START, "writer").add_edge("writer", "critic").compile()
