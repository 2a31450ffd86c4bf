"""The adapter: what agentlightning knows of LangChain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from langchain_core.runnables import Runnable
from opentelemetry.trace import TracerProvider

from agentlightning.agents import Adapter, AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from lightning_adapter_langchain import _function, _tunables
from lightning_adapter_langchain._instrumentor import LangChainInstrumentor
from lightning_adapter_langchain._swaps import swapped

_SDKS: Final = (
    ("openai", "lightning_adapter_openai", "OpenAIAdapter"),
    ("anthropic", "lightning_adapter_anthropic", "AnthropicAdapter"),
)
_ACCEPTED: Final = "chat models, chains, agents and graphs, all of which are a `Runnable`"


class LangChainAdapter:
    """Captures LangChain; binds its agents, chains and chat models, and lists what can be tuned in them.

    Calls of models on the SDKs of OpenAI and Anthropic are recorded and bound by the SDKs' own adapters.
    """

    name = "langchain"

    def __init__(self) -> None:
        self._instrumentor: LangChainInstrumentor | None = None
        self._sdks: Sequence[Adapter] = ()

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Starts capture in this process, of the SDKs too, unless somebody has already."""
        if not self._sdks:
            self._sdks = _sdk_adapters()
        for sdk in self._sdks:
            sdk.instrument(tracer_provider)
        instrumentor = LangChainInstrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(tracer_provider=tracer_provider)
            self._instrumentor = instrumentor

    def uninstrument(self) -> None:
        """Puts back what this adapter has changed."""
        if self._instrumentor is not None:
            self._instrumentor.uninstrument()
            self._instrumentor = None
        for sdk in reversed(self._sdks):
            sdk.uninstrument()

    def accepts(self, agent: object) -> bool:
        """Whether it is a `Runnable`."""
        return isinstance(agent, Runnable)

    def as_function(self, agent: object) -> AgentFunction:
        """The agent as a function of its task.

        Raises:
            TargetError: It is no `Runnable`.
        """
        if not isinstance(agent, Runnable):
            raise TargetError(f"{agent!r} is nothing of LangChain that can be called; it takes {_ACCEPTED}")
        return _function.as_function(agent)

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """The agent as it is: what the rollout's resources replace is looked up where it is used.

        Raises:
            ConfigError: A resource has the name of a tunable, but cannot take its place.
        """
        if not self.accepts(agent):
            return nullcontext(agent)
        return _bound(agent, context)

    def tunables(self, agent: object) -> list[Tunable]:
        """System prompts, tool descriptions and models; empty for what is no `Runnable`."""
        return [named.tunable for named in _tunables.tunables(agent)] if self.accepts(agent) else []


@contextmanager
def _bound(agent: object, context: RolloutContext) -> Iterator[object]:
    swaps = _tunables.swaps_of(agent, context.resources)
    with nullcontext() if swaps is None else swapped(swaps):
        yield agent


def _sdk_adapters() -> list[Adapter]:
    return [
        getattr(import_module(package), name)()
        for sdk, package, name in _SDKS
        if find_spec(sdk) is not None and find_spec(package) is not None
    ]
