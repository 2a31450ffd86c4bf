"""The adapter: what agentlightning knows of the OpenAI Agents SDK."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from agentlightning.adapters import InstrumentorAdapter
from agentlightning.agents import AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_openai import OpenAIAdapter
from lightning_adapter_openai_agents._instrumentor import OpenAIAgentsInstrumentor

if TYPE_CHECKING:
    from agentlightning.types import Json


class OpenAIAgentsAdapter(InstrumentorAdapter):
    """Captures, binds and tunes agents. Model calls are captured and bound by the adapter of the OpenAI SDK.

    While it is at work traces no longer go to the vendor.
    """

    name = "openai-agents"
    accepted = ("agents:Agent",)

    def __init__(self) -> None:
        super().__init__(OpenAIAgentsInstrumentor, below=(OpenAIAdapter(),))

    def as_function(self, agent: object) -> AgentFunction:
        """Runs it with the task: a text, or messages with role and content; other data as JSON text.

        Raises:
            TargetError: It is no agent of the SDK.
        """
        from agents import Agent

        from lightning_adapter_openai_agents._calling import call

        if not isinstance(agent, Agent):
            raise TargetError(
                f"{agent!r} is no agent of the OpenAI Agents SDK; pass an `Agent`, "
                "or a function that calls `Runner.run` with one"
            )
        found = agent

        async def function(task: Json) -> Json:
            return await call(found, task)

        return function

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """The agent as it is: runs look the rollout's values up themselves."""
        del context
        return nullcontext(agent)

    def tunables(self, agent: object) -> list[Tunable]:
        """Instructions, models, tools and handoffs of an agent and those it can reach: `writer.instructions`.

        Instructions that are a function are left out: what they say is known when they are called.
        """
        from lightning_adapter_openai_agents._tunables import tunables

        return tunables(agent)
