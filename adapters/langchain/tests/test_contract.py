"""The LangChain adapter passes the contract of frameworks with agents, and the one of adapters with a chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import openai
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate, SystemMessagePromptTemplate
from langchain_core.runnables import Runnable, config
from langchain_core.tools import StructuredTool
from langchain_core.tracers import context
from langchain_openai import ChatOpenAI
from langgraph._internal import _runnable
from langgraph.pregel import Pregel
from openai.resources.chat.completions import AsyncCompletions, Completions

from agentlightning.agents import Adapter
from agentlightning.testing import (
    AdapterContract,
    FrameworkContract,
    ScriptedAnswer,
    ScriptedReply,
    ScriptedToolCall,
)
from lightning_adapter_langchain import LangChainAdapter

KEY, MODEL = "users-own-key", "users-own-model"


class Models:
    """Chat models on connections that are closed with the block."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def __enter__(self) -> ChatOpenAI:
        self._sync = openai.DefaultHttpxClient(verify=False)
        self._async = openai.DefaultAsyncHttpxClient(verify=False)
        return ChatOpenAI(
            model=MODEL,
            base_url=self._base_url,
            api_key=KEY,
            max_retries=0,
            http_client=self._sync,
            http_async_client=self._async,
        )

    def __exit__(self, *_: object) -> None:
        self._sync.close()

    async def __aenter__(self) -> ChatOpenAI:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self._sync.close()
        await self._async.aclose()


async def settled() -> None:
    """A chain leaves the closing of what it read from to tasks that the event loop starts."""
    await asyncio.sleep(0)
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
        await asyncio.sleep(0)


class Asking(AdapterContract):
    """Asks whatever of LangChain's a subclass makes."""

    def make_adapter(self) -> Adapter:
        return LangChainAdapter()

    def originals(self) -> Sequence[object]:
        doors = ("generate", "agenerate", "stream", "astream")
        prompt = SystemMessagePromptTemplate.__mro__[1].__dict__
        return [
            *(BaseChatModel.__dict__[name] for name in doors),
            *(prompt[name] for name in ("format_messages", "aformat_messages")),
            config._set_config_context,
            _runnable._set_config_context,
            Pregel.__dict__["stream"],
            Pregel.__dict__["astream"],
            Completions.__dict__["create"],
            AsyncCompletions.__dict__["create"],
            *(hook[0] for hook in context._configure_hooks),
        ]

    def agent(self, model: ChatOpenAI) -> Runnable[Any, Any]:
        raise NotImplementedError

    def question(self, text: str) -> object:
        raise NotImplementedError

    async def ask(self, base_url: str, text: str) -> object:
        async with Models(base_url) as model:
            return await self.agent(model).ainvoke(self.question(text))

    def ask_in_thread(self, base_url: str, text: str) -> object:
        with Models(base_url) as model:
            return self.agent(model).invoke(self.question(text))


class TestLangChainAdapterWithAnAgent(Asking, FrameworkContract):
    hooks: ClassVar[str] = "lightning_adapter_langchain.hooks"
    team: ClassVar[Sequence[str]] = ("editor", "writer", "editor")
    team_replies: ClassVar[Sequence[ScriptedReply]] = (
        ScriptedAnswer(tool_calls=(ScriptedToolCall(name="write", arguments={"topic": "cats"}),)),
        ScriptedAnswer(text="a text about cats"),
        ScriptedAnswer(text="done"),
    )

    def agent(self, model: ChatOpenAI) -> Runnable[Any, Any]:
        return create_agent(model, tools=[], system_prompt="You are a helpful assistant")

    def question(self, text: str) -> object:
        return {"messages": [{"role": "user", "content": text}]}

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with Models(base_url) as model:
            parts = self.agent(model).astream(self.question(text), stream_mode="messages")
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
            yield create_agent(model, tools=[add], system_prompt=self.prompt, name=self.agent_name)

    @asynccontextmanager
    async def make_team(self, base_url: str) -> AsyncIterator[object]:
        async with Models(base_url) as model:
            writer = create_agent(model, tools=[], system_prompt="You write.", name="writer")

            async def write(topic: str) -> str:
                found = await writer.ainvoke({"messages": [{"role": "user", "content": topic}]})
                return str(found["messages"][-1].text)

            tool = StructuredTool.from_function(coroutine=write, description="Writes about a topic.")
            yield create_agent(model, tools=[tool], system_prompt="You edit.", name="editor")


class TestLangChainAdapterWithAChain(Asking):
    def agent(self, model: ChatOpenAI) -> Runnable[Any, Any]:
        prompt = ChatPromptTemplate.from_messages([("system", "You are {tone}."), ("human", "{question}")])
        return prompt.partial(tone="brief") | model

    def question(self, text: str) -> object:
        return {"question": text}

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with Models(base_url) as model:
            parts = self.agent(model).astream(self.question(text))
            try:
                async with aclosing(parts):
                    async for message in parts:
                        yield message.text
            finally:
                await settled()

    def text_of(self, result: object) -> str:
        assert isinstance(result, AIMessage)
        return str(result.content)
