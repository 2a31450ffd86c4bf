"""The adapter: what agentlightning knows of the Anthropic SDK."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from opentelemetry.trace import TracerProvider

from agentlightning.agents import AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_anthropic._instrumentor import AnthropicInstrumentor


class AnthropicAdapter:
    """Captures the Anthropic SDK. Agents that use it are plain functions; their clients are bound by context."""

    name = "anthropic"

    def __init__(self) -> None:
        self._instrumentor: AnthropicInstrumentor | None = None

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Starts capture in this process, unless somebody has already."""
        instrumentor = AnthropicInstrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(tracer_provider=tracer_provider)
            self._instrumentor = instrumentor

    def uninstrument(self) -> None:
        """Puts back what this adapter has changed."""
        if self._instrumentor is not None:
            self._instrumentor.uninstrument()
            self._instrumentor = None

    def accepts(self, agent: object) -> bool:
        """False: the SDK has no agent objects."""
        del agent
        return False

    def as_function(self, agent: object) -> AgentFunction:
        """Never called, because nothing is accepted.

        Raises:
            TargetError: Always.
        """
        raise TargetError(
            f"{agent!r} is no agent of the Anthropic SDK, which has none; train a function that uses it"
        )

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """The agent as it is: clients look the current rollout up themselves."""
        del context
        return nullcontext(agent)

    def tunables(self, agent: object) -> list[Tunable]:
        """None: prompts of plain functions are resources that they ask for by name."""
        del agent
        return []
