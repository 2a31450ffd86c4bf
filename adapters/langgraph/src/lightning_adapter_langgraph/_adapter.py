"""The adapter: what agentlightning knows of LangGraph."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from langgraph.pregel import Pregel

from agentlightning.adapters import InstrumentorAdapter
from agentlightning.agents import AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_langchain import LangChainAdapter
from lightning_adapter_langgraph._instrumentor import LangGraphInstrumentor


class LangGraphAdapter(InstrumentorAdapter):
    """Captures graphs, on top of LangChain's adapter, which binds and tunes what their nodes refer to."""

    name = "langgraph"
    accepted = ("langgraph.pregel:Pregel",)

    def __init__(self) -> None:
        self._langchain = LangChainAdapter()
        super().__init__(LangGraphInstrumentor, below=(self._langchain,))

    def as_function(self, agent: object) -> AgentFunction:
        """The graph as a function of its task.

        Raises:
            TargetError: It is no compiled graph.
        """
        if not isinstance(agent, Pregel):
            hint = "; call its `compile()`" if hasattr(agent, "compile") else ""
            raise TargetError(f"{agent!r} is no compiled graph of LangGraph{hint}")
        return self._langchain.as_function(agent)

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """The graph as it is: what the rollout's resources replace is looked up where it is used.

        Raises:
            ConfigError: A resource has the name of a tunable, but cannot take its place.
        """
        return self._langchain.bind(agent, context) if self.accepts(agent) else nullcontext(agent)

    def tunables(self, agent: object) -> list[Tunable]:
        """System prompts, tool descriptions and models of its nodes; empty for what is no compiled graph."""
        return self._langchain.tunables(agent) if self.accepts(agent) else []
