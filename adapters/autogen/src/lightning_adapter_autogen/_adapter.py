"""The adapter: what agentlightning knows of AutoGen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from agentlightning.adapters import InstrumentorAdapter
from agentlightning.agents import AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_autogen._instrumentor import AutoGenInstrumentor
from lightning_adapter_openai import OpenAIAdapter

if TYPE_CHECKING:
    from autogen_core.tools import Workbench

    from agentlightning.types import Json


class AutoGenAdapter(InstrumentorAdapter):
    """Captures, binds and tunes agents and teams; the OpenAI SDK below them is its own adapter's."""

    name = "autogen"
    accepted = ("autogen_agentchat.base:ChatAgent", "autogen_agentchat.base:Team")

    def __init__(self) -> None:
        super().__init__(AutoGenInstrumentor, below=(OpenAIAdapter(),))
        self._workbenches: dict[int, tuple[Workbench, ...]] = {}

    def as_function(self, agent: object) -> AgentFunction:
        """Runs it with the task: a text, or messages with role and content; other data as JSON text.

        The result is the last message: its text, or the fields of a structured one.

        Raises:
            TargetError: It is no agent and no team of the framework.
        """
        from lightning_adapter_autogen._calling import call

        if not self.accepts(agent):
            raise TargetError(
                f"{agent!r} is no agent and no team of AutoGen; pass a `BaseChatAgent` or a team such as "
                "`RoundRobinGroupChat`, or a function that uses one"
            )
        workbenches = self._workbenches.get(id(agent), ())

        async def function(task: Json) -> Json:
            return await call(agent, task, workbenches=workbenches)

        return function

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """A copy with the rollout's values: agents and teams remember what was said, and no rollout may see another's.

        Model clients, function tools and tool servers that are already running are shared.
        """
        return self._bound(agent, context) if self.accepts(agent) else nullcontext(agent)

    @contextmanager
    def _bound(self, agent: object, context: RolloutContext) -> Iterator[object]:
        from lightning_adapter_autogen._copying import fresh, startable
        from lightning_adapter_autogen._tunables import apply

        copy = fresh(agent)
        apply(copy, context.resources)
        self._workbenches[id(copy)] = startable(copy)
        try:
            yield copy
        finally:
            del self._workbenches[id(copy)]

    def tunables(self, agent: object) -> list[Tunable]:
        """System messages, descriptions, models and tools: `writer.system_message`, `writer.tools.search`."""
        from lightning_adapter_autogen._tunables import tunables

        return tunables(agent) if self.accepts(agent) else []
