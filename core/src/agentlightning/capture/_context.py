"""Which rollout is this code running in? Carried by a context variable, never by a global."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from agentlightning.types import Mode, Resource, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the current rollout's model calls go.

    Attributes:
        base_url: OpenAI-compatible base URL, `/v1` included.
        api_key: The attempt's key.
        model: Model to ask for instead of the agent's own choice; None leaves it.
    """

    base_url: str
    api_key: str = field(repr=False)
    model: str | None = None


class SpanSink(Protocol):
    """Where finished spans of an attempt go."""

    def add(self, span: Span) -> None:
        """Takes a span, from any thread, without blocking on I/O; blocks only when its bounded queue is full."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutContext:
    """Everything that code inside a rollout can learn about it.

    Attributes:
        sink: Where its spans go.
        resources: Resources by name, loaded.
        endpoint: Where model calls go; None leaves the agent's clients alone.
        agents: Names of agents to train; empty is all.
    """

    rollout_id: str
    attempt_id: str
    mode: Mode
    sink: SpanSink
    run_id: str | None = None
    seed: int | None = None
    resources: Mapping[str, Resource] = field(default_factory=dict)
    endpoint: Endpoint | None = None
    agents: frozenset[str] = frozenset()


_current: ContextVar[RolloutContext | None] = ContextVar("agl_rollout", default=None)


def current_rollout() -> RolloutContext | None:
    """The rollout that this code runs in, or None."""
    return _current.get()


@contextmanager
def in_rollout(context: RolloutContext) -> Iterator[RolloutContext]:
    """Makes `context` the current rollout for the block, tasks and threads started with a copied context included."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
