"""The adapter: what agentlightning knows of CrewAI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from opentelemetry.trace import TracerProvider

from agentlightning.adapters import InstrumentorAdapter
from agentlightning.agents import AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_crewai._instrumentor import CrewAIInstrumentor
from lightning_adapter_openai import OpenAIAdapter

_SWITCHES: Final = {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}
"""Keep rollouts from the vendor. A crew that is constructed with `tracing=True` still asks for it itself."""


class CrewAIAdapter(InstrumentorAdapter):
    """Captures, binds and tunes crews, flows and agents. Model calls are captured and bound by their SDK's adapter."""

    name = "crewai"
    accepted = ("crewai:Crew", "crewai:Flow", "crewai:Agent")

    def __init__(self) -> None:
        super().__init__(CrewAIInstrumentor, below=(OpenAIAdapter(),))
        self._environment: dict[str, str | None] = {}

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Starts capture in this process, unless somebody has already, and switches the vendor's telemetry off."""
        if not CrewAIInstrumentor().is_instrumented_by_opentelemetry:
            self._environment = {name: os.environ.get(name) for name in _SWITCHES}
            os.environ.update(_SWITCHES)
        super().instrument(tracer_provider)

    def uninstrument(self) -> None:
        """Puts back what this adapter has changed."""
        super().uninstrument()
        for name, value in self._environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._environment = {}

    def as_function(self, agent: object) -> AgentFunction:
        """Kicks it off: a crew and a flow with the task as inputs, an agent with the task as message.

        Raises:
            TargetError: It is nothing that CrewAI kicks off.
        """
        from lightning_adapter_crewai._calling import call

        if not self.accepts(agent):
            raise TargetError(
                f"{agent!r} is no crew, flow or agent of CrewAI; pass a `Crew`, a `Flow` or an `Agent`, "
                "or a function that uses one"
            )
        return lambda task: call(agent, task)

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """A copy with the rollout's values; the spans that it leaves open end with the block."""
        return self._bound(agent, context)

    @contextmanager
    def _bound(self, agent: object, context: RolloutContext) -> Iterator[object]:
        from lightning_adapter_crewai._tunables import copy_with

        try:
            yield copy_with(agent, context.resources) if self.accepts(agent) else agent
        finally:
            CrewAIInstrumentor().close(context)

    def tunables(self, agent: object) -> list[Tunable]:
        """Roles, goals, backstories, models and tools of agents; descriptions and expected outputs of tasks."""
        from lightning_adapter_crewai._tunables import tunables

        return tunables(agent) if self.accepts(agent) else []
