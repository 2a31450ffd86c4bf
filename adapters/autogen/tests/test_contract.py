"""The AutoGen adapter passes the contract of adapters of frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import ClassVar

import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import ModelClientStreamingChunkEvent, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_agentchat.teams._group_chat._sequential_routed_agent import SequentialRoutedAgent
from autogen_core import BaseAgent
from autogen_core._telemetry import _genai
from autogen_core.models import ChatCompletionClient, ModelInfo
from autogen_core.tools import BaseTool, FunctionTool
from autogen_core.tools._base import BaseStreamTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient

from agentlightning.agents import Adapter
from agentlightning.testing import FrameworkContract, ScriptedAnswer, ScriptedReply
from lightning_adapter_autogen import AutoGenAdapter

KEY, MODEL = "users-own-key", "users-own-model"
INFO = ModelInfo(
    vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True
)


class TestAutoGenAdapter(FrameworkContract):
    hooks: ClassVar[str] = "lightning_adapter_autogen.hooks"
    team: ClassVar[Sequence[str]] = ("writer", "critic", "writer")
    team_replies: ClassVar[Sequence[ScriptedReply]] = tuple(ScriptedAnswer(text=text) for text in "abc")

    def make_adapter(self) -> Adapter:
        return AutoGenAdapter()

    def originals(self) -> Sequence[object]:
        found: list[tuple[type, str]] = [
            (BaseTool, "run_json"),
            (BaseStreamTool, "run_json_stream"),
            (AssistantAgent, "_execute_tool_call"),
            (AssistantAgent, "on_messages"),
            (AssistantAgent, "on_messages_stream"),
            (AssistantAgent, "_update_model_context_with_memory"),
            (SequentialRoutedAgent, "on_message_impl"),
            (BaseAgent, "on_message"),
            (ReplayChatCompletionClient, "create"),
            (ReplayChatCompletionClient, "create_stream"),
            (openai.resources.chat.AsyncCompletions, "create"),
        ]
        hook = ChatCompletionClient.__dict__.get("__init_subclass__")
        return [_genai.trace, hook, *(owner.__dict__[name] for owner, name in found)]  # type: ignore[attr-defined]

    def model_client(self, base_url: str) -> OpenAIChatCompletionClient:
        return OpenAIChatCompletionClient(
            model=MODEL,
            base_url=base_url,
            api_key=KEY,
            model_info=INFO,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=False),
        )

    def agent(
        self, client: OpenAIChatCompletionClient, *, name: str = "greeter", stream: bool = False
    ) -> AssistantAgent:
        return AssistantAgent(
            name, model_client=client, system_message="You greet.", model_client_stream=stream
        )

    async def ask(self, base_url: str, text: str) -> object:
        client = self.model_client(base_url)
        try:
            return await self.agent(client).run(task=text)
        finally:
            await client.close()

    def ask_in_thread(self, base_url: str, text: str) -> object:
        return asyncio.run(self.ask(base_url, text))  # type: ignore[arg-type]

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        client = self.model_client(base_url)
        try:
            async with aclosing(self.agent(client, stream=True).run_stream(task=text)) as events:
                async for event in events:
                    if isinstance(event, ModelClientStreamingChunkEvent):
                        yield event.content
        finally:
            await client.close()

    def text_of(self, result: object) -> str:
        assert isinstance(result, TaskResult)
        last = result.messages[-1]
        assert isinstance(last, TextMessage)
        return last.content

    @pytest.mark.xfail(
        strict=True,
        reason="AutoGen does not close streams that are left early: the call ends when it is collected",
    )
    async def test_an_abandoned_stream_is_recorded_as_cancelled(self) -> None:
        await super().test_an_abandoned_stream_is_recorded_as_cancelled()

    @asynccontextmanager
    async def make_agent(self, base_url: str) -> AsyncIterator[object]:
        client = self.model_client(base_url)
        yield AssistantAgent(
            self.agent_name,
            model_client=client,
            system_message=self.prompt,
            tools=[FunctionTool(self.add, description=self.tool_description)],
            reflect_on_tool_use=True,
        )
        await client.close()

    @asynccontextmanager
    async def make_team(self, base_url: str) -> AsyncIterator[object]:
        client = self.model_client(base_url)
        agents = [self.agent(client, name=name) for name in ("writer", "critic")]
        yield RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(4))
        await client.close()
