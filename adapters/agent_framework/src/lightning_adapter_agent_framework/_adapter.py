"""The adapter: what agentlightning knows of Agent Framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from agentlightning.adapters import InstrumentorAdapter
from agentlightning.agents import AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_agent_framework._instrumentor import AgentFrameworkInstrumentor
from lightning_adapter_openai import OpenAIAdapter

if TYPE_CHECKING:
    from agentlightning.types import Json


class AgentFrameworkAdapter(InstrumentorAdapter):
    """Captures, binds and tunes agents and workflows. Model calls are captured and bound by their SDK's adapter."""

    name = "agent-framework"
    accepted = (
        "agent_framework:BaseAgent",
        "agent_framework:Workflow",
        "agent_framework._workflows._functional:FunctionalWorkflow",
    )

    def __init__(self) -> None:
        super().__init__(AgentFrameworkInstrumentor, below=(OpenAIAdapter(),))

    def as_function(self, agent: object) -> AgentFunction:
        """Runs it with the task: a text, or messages with role and content; other data as JSON text.

        A workflow whose first executor takes data of the task's type gets the task as it is.

        Raises:
            TargetError: It is no agent and no workflow of the framework.
        """
        from lightning_adapter_agent_framework._calling import call

        if not self.accepts(agent):
            raise TargetError(
                f"{agent!r} is no agent and no workflow of Agent Framework; pass an `Agent` or a built `Workflow`, "
                "or a function that uses one"
            )

        async def function(task: Json) -> Json:
            return await call(agent, task)

        return function

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """A workflow's copy; agents as they are, because they look the rollout's values up when they run."""
        del context
        return self._bound(agent)

    @contextmanager
    def _bound(self, agent: object) -> Iterator[object]:
        from lightning_adapter_agent_framework._calling import fresh

        yield fresh(agent) if self.accepts(agent) else agent

    def tunables(self, agent: object) -> list[Tunable]:
        """Instructions, models and tool descriptions: `writer.instructions`, `writer.tools.search`."""
        from lightning_adapter_agent_framework._tunables import tunables

        return tunables(agent) if self.accepts(agent) else []
