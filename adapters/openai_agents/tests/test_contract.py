"""The adapter of the OpenAI Agents SDK passes the contract of adapters of frameworks, with both kinds of models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import agents.run
import openai
from agents import (
    Agent,
    Model,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    RunResult,
    function_tool,
)
from agents.agent import AgentBase
from agents.run_internal import run_loop
from agents.sandbox import runtime
from agents.tool_context import ToolContext
from agents.tracing import setup
from agents.tracing.spans import SpanImpl
from openai.types.responses import ResponseTextDeltaEvent

from agentlightning.agents import Adapter, TunableKind
from agentlightning.testing import FrameworkContract, ScriptedAnswer, ScriptedReply, ScriptedToolCall
from lightning_adapter_openai_agents import OpenAIAgentsAdapter

KEY, MODEL = "users-own-key", "users-own-model"


class TestOpenAIAgentsAdapter(FrameworkContract):
    hooks: ClassVar[str] = "lightning_adapter_openai_agents.hooks"
    prompt_kind: ClassVar[TunableKind] = TunableKind.INSTRUCTION
    team: ClassVar[Sequence[str]] = ("triage", "refunds")
    team_replies: ClassVar[Sequence[ScriptedReply]] = (
        ScriptedAnswer(tool_calls=(ScriptedToolCall(name="transfer_to_refunds"),)),
        ScriptedAnswer(text="refunded"),
    )

    def make_adapter(self) -> Adapter:
        return OpenAIAgentsAdapter()

    def originals(self) -> Sequence[object]:
        modules = (agents.run, run_loop, runtime)
        return [
            setup.get_trace_provider(),
            SpanImpl.__dict__["set_error"],
            run_loop.get_model,
            AgentBase.__dict__["get_all_tools"],
            ToolContext.__dict__["from_agent_context"],
            Model.__dict__.get("__init_subclass__"),
            openai.resources.responses.AsyncResponses.__dict__["create"],
            *(vars(module)["bind_public_agent"] for module in modules),
        ]

    def client(self, base_url: str) -> openai.AsyncOpenAI:
        transport = openai.DefaultAsyncHttpxClient(verify=False)
        return openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0, http_client=transport)

    def model(self, client: openai.AsyncOpenAI) -> Model:
        return OpenAIChatCompletionsModel(model=MODEL, openai_client=client)

    async def ask(self, base_url: str, text: str) -> object:
        async with self.client(base_url) as client:
            agent = Agent(name="greeter", instructions="You greet.", model=self.model(client))
            return await Runner.run(agent, text)

    def ask_in_thread(self, base_url: str, text: str) -> object:
        return asyncio.run(self.ask(base_url, text))  # type: ignore[arg-type]

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with self.client(base_url) as client:
            agent = Agent(name="greeter", instructions="You greet.", model=self.model(client))
            result = Runner.run_streamed(agent, text)
            try:
                async for event in result.stream_events():
                    if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                        yield event.data.delta
            finally:  # the run goes on by itself unless it is told
                result.cancel()
                async for _ in result.stream_events():
                    pass

    def text_of(self, result: object) -> str:
        assert isinstance(result, RunResult)
        return str(result.final_output)

    @asynccontextmanager
    async def make_agent(self, base_url: str) -> AsyncIterator[object]:
        async with self.client(base_url) as client:
            yield Agent(
                name=self.agent_name,
                instructions=self.prompt,
                model=self.model(client),
                tools=[function_tool(self.add, description_override=self.tool_description)],
            )

    @asynccontextmanager
    async def make_team(self, base_url: str) -> AsyncIterator[object]:
        async with self.client(base_url) as client:
            model = self.model(client)
            refunds = Agent(name="refunds", instructions="You refund.", model=model)
            yield Agent(name="triage", instructions="You route.", model=model, handoffs=[refunds])


class TestOpenAIAgentsAdapterWithResponses(TestOpenAIAgentsAdapter):
    """The same through the Responses API."""

    first_text_event = 5

    def model(self, client: openai.AsyncOpenAI) -> Model:
        return OpenAIResponsesModel(model=MODEL, openai_client=client)
