"""The Agent Framework adapter passes the contract of adapters, with both of the framework's OpenAI clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import openai
from agent_framework import Agent, AgentResponse, Content, RawAgent, observability, tool
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient
from agent_framework.orchestrations import SequentialBuilder

from agentlightning.agents import Adapter, TunableKind
from agentlightning.testing import FrameworkContract, ScriptedAnswer
from lightning_adapter_agent_framework import AgentFrameworkAdapter

KEY, MODEL = "users-own-key", "users-own-model"


class TestAgentFrameworkAdapter(FrameworkContract):
    hooks = "lightning_adapter_agent_framework.hooks"
    prompt_kind = TunableKind.INSTRUCTION
    team = ("writer", "reviewer")
    team_replies = (ScriptedAnswer(text="a draft"), ScriptedAnswer(text="looks good"))

    def make_adapter(self) -> Adapter:
        return AgentFrameworkAdapter()

    def originals(self) -> Sequence[object]:
        return [
            observability.get_tracer,
            type(observability.OBSERVABILITY_SETTINGS),
            observability.ChatTelemetryLayer.__dict__["get_response"],
            observability.AgentTelemetryLayer.__dict__["run"],
            RawAgent.__dict__["run"],
            openai.resources.responses.AsyncResponses.__dict__["create"],
        ]

    def agent(self, base_url: str) -> tuple[openai.AsyncOpenAI, Agent]:
        transport = openai.DefaultAsyncHttpxClient(verify=False)
        client = openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0, http_client=transport)
        return client, Agent(
            client=OpenAIChatCompletionClient(model=MODEL, async_client=client),
            name="greeter",
            instructions="You greet.",
        )

    @asynccontextmanager
    async def make_agent(self, base_url: str) -> AsyncIterator[object]:
        client, agent = self.agent(base_url)
        add = tool(self.add, approval_mode="never_require")
        async with client:
            yield Agent(client=agent.client, name="assistant", instructions=self.prompt, tools=[add])

    @asynccontextmanager
    async def make_team(self, base_url: str) -> AsyncIterator[object]:
        client, agent = self.agent(base_url)
        members = [Agent(client=agent.client, name=name) for name in self.team]
        async with client:
            yield SequentialBuilder(participants=members).build()

    async def ask(self, base_url: str, text: str) -> object:
        client, agent = self.agent(base_url)
        async with client:
            return await agent.run(text)

    def ask_in_thread(self, base_url: str, text: str) -> object:
        return asyncio.run(self.ask(base_url, text))  # type: ignore[arg-type]

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        client, agent = self.agent(base_url)
        async with client, agent.run(text, stream=True) as updates:
            async for update in updates:
                yield "".join(map(self.new_text, update.contents))

    def new_text(self, content: Content) -> str:
        """The text that a part adds; the last part of a response repeats the whole."""
        return (content.text or "") if content.merge_mode != "replace" else ""

    def text_of(self, result: object) -> str:
        assert isinstance(result, AgentResponse)
        return result.text


class TestAgentFrameworkAdapterWithResponses(TestAgentFrameworkAdapter):
    """The same through the Responses API."""

    first_text_event = 5

    def agent(self, base_url: str) -> tuple[openai.AsyncOpenAI, Agent]:
        client, agent = super().agent(base_url)
        agent.client = OpenAIChatClient(model=MODEL, async_client=client)
        return client, agent
