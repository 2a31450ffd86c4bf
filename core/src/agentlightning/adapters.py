"""What adapters are built on: capture by an instrumentor, and what a rollout puts in a tunable's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import ClassVar, Protocol, TypeVar

from opentelemetry.trace import TracerProvider

from agentlightning.agents import Adapter, AgentFunction, Tunable
from agentlightning.capture import RolloutContext
from agentlightning.errors import ConfigError, TargetError
from agentlightning.types import Resource

__all__ = ["Instrumentor", "InstrumentorAdapter", "SdkAdapter", "resource_of"]

_Kind = TypeVar("_Kind", bound=Resource)


class Instrumentor(Protocol):
    """What is used of OpenTelemetry's `BaseInstrumentor`: a process has one object of each class."""

    @property
    def is_instrumented_by_opentelemetry(self) -> bool:
        """Whether it is at work."""
        ...

    def instrument(self, *, tracer_provider: TracerProvider) -> object:
        """Starts capture."""
        ...

    def uninstrument(self) -> object:
        """Puts everything back."""
        ...


class InstrumentorAdapter:
    """The part of an adapter that captures. Subclasses bind agents, and say what is tunable in them.

    Attributes:
        name: Name of its spec.
        accepted: The classes whose objects it can call, as import strings such as `crewai:Crew`: they are loaded when
            an agent is shown to the adapter.

    Args:
        instrumentor: Gives the framework's instrumentor.
        below: Adapters of what the framework rides on, which are at work whenever this one is.
    """

    name: str
    accepted: Sequence[str] = ()

    def __init__(self, instrumentor: Callable[[], Instrumentor], *, below: Sequence[Adapter] = ()) -> None:
        self._make_instrumentor = instrumentor
        self._below = below
        self._instrumentor: Instrumentor | None = None

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Starts capture in this process, from below, unless somebody has already."""
        for adapter in self._below:
            adapter.instrument(tracer_provider)
        instrumentor = self._make_instrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(tracer_provider=tracer_provider)
            self._instrumentor = instrumentor

    def uninstrument(self) -> None:
        """Puts back what this adapter has changed; what somebody else has instrumented stays so."""
        if self._instrumentor is not None:
            self._instrumentor.uninstrument()
            self._instrumentor = None
        for adapter in reversed(self._below):
            adapter.uninstrument()

    def accepts(self, agent: object) -> bool:
        """Whether it is an object of one of the `accepted` classes."""
        return any(isinstance(agent, _loaded(name)) for name in self.accepted)


class SdkAdapter(InstrumentorAdapter):
    """An adapter of an SDK without agent objects: its agents are plain functions, its clients are bound by context.

    Attributes:
        sdk: What people call it.
    """

    sdk: ClassVar[str]

    def as_function(self, agent: object) -> AgentFunction:
        """Never called, because nothing is accepted.

        Raises:
            TargetError: Always.
        """
        raise TargetError(
            f"{agent!r} is no agent of the {self.sdk}, which has none; train a function that uses it"
        )

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """The agent as it is: clients look the current rollout up themselves."""
        del context
        return nullcontext(agent)

    def tunables(self, agent: object) -> list[Tunable]:
        """None: prompts of plain functions are resources that they ask for by name."""
        del agent
        return []


def resource_of(resources: Mapping[str, Resource], name: str, kind: type[_Kind]) -> _Kind | None:
    """What a rollout puts in the place of a tunable; None if nothing.

    Args:
        resources: The rollout's.
        name: Name of the tunable.
        kind: What can take its place.

    Raises:
        ConfigError: There is something else.
    """
    found = resources.get(name)
    if found is not None and not isinstance(found, kind):
        raise ConfigError(
            f"resource {name!r} must be a {kind.__name__}, found {found!r}; publish one of that kind"
        )
    return found


def _loaded(name: str) -> type:
    module, _, kind = name.partition(":")
    found: type = getattr(import_module(module), kind)
    return found
