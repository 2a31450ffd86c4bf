"""The adapter: what agentlightning knows of LangChain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from langchain_core.runnables import Runnable

from agentlightning.adapters import InstrumentorAdapter
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


class LangChainAdapter(InstrumentorAdapter):
    """Captures LangChain; binds its agents, chains and chat models, and lists what can be tuned in them.

    Calls of models on the SDKs of OpenAI and Anthropic are recorded and bound by the SDKs' own adapters.
    """

    name = "langchain"
    accepted = ("langchain_core.runnables:Runnable",)

    def __init__(self) -> None:
        super().__init__(LangChainInstrumentor, below=_sdk_adapters())

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
