"""The adapter: what agentlightning knows of LangGraph."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from langgraph.pregel import Pregel
from opentelemetry.trace import TracerProvider

from agentlightning.agents import AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_langchain import LangChainAdapter
from lightning_adapter_langgraph._instrumentor import LangGraphInstrumentor


class LangGraphAdapter:
    """Captures graphs, on top of LangChain's adapter, which binds and tunes what their nodes refer to."""

    name = "langgraph"

    def __init__(self) -> None:
        self._langchain = LangChainAdapter()
        self._instrumentor: LangGraphInstrumentor | None = None

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Starts capture in this process, of LangChain too, unless somebody has already."""
        self._langchain.instrument(tracer_provider)
        instrumentor = LangGraphInstrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(tracer_provider=tracer_provider)
            self._instrumentor = instrumentor

    def uninstrument(self) -> None:
        """Puts back what this adapter has changed."""
        if self._instrumentor is not None:
            self._instrumentor.uninstrument()
            self._instrumentor = None
        self._langchain.uninstrument()

    def accepts(self, agent: object) -> bool:
        """Whether it is a compiled graph."""
        return isinstance(agent, Pregel)

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
