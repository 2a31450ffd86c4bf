"""Which rollout is this code running in? Carried by context variables, never by a global."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from agentlightning import semconv
from agentlightning.types import Mode, Resource, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the current rollout's model calls go.

    Attributes:
        base_url: OpenAI-compatible base URL, `/v1` included.
        api_key: The attempt's key.
        model: Model to ask for instead of the agent's own choice; None leaves it.
        telemetry: URL of a server that takes OTLP with the attempt's key; None if none is known.
    """

    base_url: str
    api_key: str = field(repr=False)
    model: str | None = None
    telemetry: str | None = None


class SpanSink(Protocol):
    """Where finished spans of an attempt go."""

    def add(self, span: Span) -> None:
        """Takes a span, from any thread, without blocking on I/O; blocks only when its bounded queue is full."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class RolloutContext:
    """Everything that code inside a rollout can learn about it. Compared by identity.

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
    _counts: dict[str, Iterator[int]] = field(default_factory=dict, init=False, repr=False)

    def occurrence(self, key: str) -> int:
        """How often this was asked with this key so far, from 1; safe from any thread."""
        return next(self._counts.setdefault(key, itertools.count(1)))


_current: ContextVar[RolloutContext | None] = ContextVar("agl_rollout", default=None)
_OTEL_KEY: Final = "agl-rollout"


def current_rollout() -> RolloutContext | None:
    """The rollout that this code runs in, or None."""
    return _current.get() or rollout_of(None)


def rollout_of(context: Context | None) -> RolloutContext | None:
    """The rollout that an OpenTelemetry context belongs to, the current one for None."""
    found = otel_context.get_value(_OTEL_KEY, context)
    return found if isinstance(found, RolloutContext) else None


@contextmanager
def in_rollout(context: RolloutContext) -> Iterator[RolloutContext]:
    """Makes `context` the current rollout for the block, tasks and threads started with a copied context included.

    The ids are also put into OpenTelemetry baggage, and the rollout into OpenTelemetry's own context, so that what
    carries that context (instrumented threads, HTTP clients) carries the rollout.
    """
    carried = otel_context.set_value(_OTEL_KEY, context)
    carried = baggage.set_baggage(semconv.ROLLOUT_ID, context.rollout_id, carried)
    carried = baggage.set_baggage(semconv.ATTEMPT_ID, context.attempt_id, carried)
    token = _current.set(context)
    attached = otel_context.attach(carried)
    try:
        yield context
    finally:
        otel_context.detach(attached)
        _current.reset(token)
