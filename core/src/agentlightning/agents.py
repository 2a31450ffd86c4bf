"""What can be trained: callables and framework objects behind one protocol, and the adapters that open them up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol, TypeVar

import msgspec
from opentelemetry.trace import TracerProvider

from agentlightning.capture import RolloutContext
from agentlightning.errors import TargetError
from agentlightning.types import Json

AgentFunction = Callable[[Json], Awaitable[Json] | Json]
"""A trainable agent as the runner calls it: task in, output out. A sync one runs in a thread."""

_Function = TypeVar("_Function", bound=Callable[..., object])


class TunableKind(StrEnum):
    """What a tunable is."""

    SYSTEM_PROMPT = "system_prompt"
    INSTRUCTION = "instruction"
    ROLE = "role"
    GOAL = "goal"
    BACKSTORY = "backstory"
    TOOL_DESCRIPTION = "tool_description"
    MODEL = "model"


class Tunable(msgspec.Struct, frozen=True, kw_only=True):
    """Something of an agent that can be optimised.

    Attributes:
        name: Stable across runs, unique in the agent, such as `writer.system_prompt`.
        value: What it is now.
        place: Where it was found, for people.
    """

    name: str
    kind: TunableKind
    value: str
    place: str


class Adapter(Protocol):
    """Opens one framework up: capture, bind, tunables. The agent's code is never changed.

    Attributes:
        name: Name of its spec.
    """

    name: str

    @property
    def accepted(self) -> Sequence[str]:
        """The classes whose objects it can call, as import strings such as `crewai:Crew`; none for an SDK."""
        ...

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Starts capture in this process; calling it again does nothing."""
        ...

    def uninstrument(self) -> None:
        """Puts everything back."""
        ...

    def accepts(self, agent: object) -> bool:
        """Whether `agent` is an object of its framework that it can call."""
        ...

    def as_function(self, agent: object) -> AgentFunction:
        """The agent as a function of its task. Only called with what `accepts` took."""
        ...

    def bind(self, agent: object, context: RolloutContext) -> AbstractContextManager[object]:
        """Points the agent at the rollout's endpoint and resources for the block, concurrently safe.

        The value of the block is the agent to call. Adapters whose clients read `current_rollout()` themselves
        return the agent as it is.
        """
        ...

    def tunables(self, agent: object) -> list[Tunable]:
        """What can be optimised in it; empty for objects it does not know."""
        ...


def unknown_agent(agent: object, adapters: Sequence[Adapter]) -> TargetError:
    """The error for an agent that is no function and that no adapter accepts: it says what each of them does."""
    accepted = {
        one.name: [name.rpartition(":")[2] for name in getattr(one, "accepted", ())] for one in adapters
    }
    lines = [f"{name}: {', '.join(kinds) or 'functions'}" for name, kinds in sorted(accepted.items())]
    return TargetError(
        f"cannot train {agent!r}: it is no function of a task, and no installed adapter accepts it. "
        f"Installed adapters accept {'; '.join(lines) or 'nothing, as there are none'}. "
        "Pass one of these, a function of a task, or install the adapter of its framework"
    )


def agent(function: _Function) -> _Function:
    """Marks a function as a trainable agent. It stays an ordinary function: `Trainer` takes unmarked ones too."""
    function.__agl_agent__ = True  # type: ignore[attr-defined]
    return function
