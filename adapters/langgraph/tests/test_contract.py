"""The LangGraph adapter passes the contract of adapters, with a graph written as the tutorials write it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import openai
from langchain_core.messages import SystemMessage
from langchain_core.runnables import config
from langchain_core.tracers import context
from langchain_openai import ChatOpenAI
from langgraph._internal import _runnable
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph._branch import BranchSpec
from langgraph.pregel import Pregel

from agentlightning.agents import Adapter
from agentlightning.testing import AdapterContract
from lightning_adapter_langchain import LangChainInstrumentor
from lightning_adapter_langgraph import LangGraphAdapter

KEY, MODEL = "users-own-key", "users-own-model"


class Graphs:
    """Graphs on connections that are closed with the block."""

    def __init__(self, base_url: str, *, sync: bool = False) -> None:
        self._base_url = base_url
        self._sync = sync

    def __enter__(self) -> Any:
        self._http = openai.DefaultHttpxClient(verify=False)
        self._http_async = openai.DefaultAsyncHttpxClient(verify=False)
        model = ChatOpenAI(
            model=MODEL,
            base_url=self._base_url,
            api_key=KEY,
            max_retries=0,
            http_client=self._http,
            http_async_client=self._http_async,
        )
        system = SystemMessage("You are a helpful assistant.")

        async def acall_model(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke([system, *state["messages"]])]}

        def call_model(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke([system, *state["messages"]])]}

        builder = StateGraph(MessagesState)
        builder.add_node("call_model", call_model if self._sync else acall_model)
        builder.add_edge(START, "call_model")
        builder.add_conditional_edges("call_model", lambda _: END, [END])
        return builder.compile()

    def __exit__(self, *_: object) -> None:
        self._http.close()

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self._http.close()
        await self._http_async.aclose()


def question(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


class TestLangGraphAdapter(AdapterContract):
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
        async with Graphs(base_url) as graph:
            return await graph.ainvoke(question(text))

    def ask_in_thread(self, base_url: str, text: str) -> object:
        with Graphs(base_url, sync=True) as graph:
            return graph.invoke(question(text))

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with Graphs(base_url) as graph:
            parts = graph.astream(question(text), stream_mode="messages")
            async with aclosing(parts):
                async for message, _ in parts:
                    yield message.text

    def text_of(self, result: object) -> str:
        assert isinstance(result, dict)
        return str(result["messages"][-1].content)
