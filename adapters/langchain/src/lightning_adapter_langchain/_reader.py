"""What builds on this adapter: a reader is told of chains, and adds to their spans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStart:
    """A chain, graph or node that starts.

    Attributes:
        name: Its run's name.
        kind: LangChain's run type; empty is an ordinary chain.
        metadata: Its run's metadata, its callers' included.
        graph: The graph that this is a run of; None for everything else.
        inside: The graph that this is a node of; None for everything else.
        root: Nothing of LangChain has called it.
        branch: It decides where a node leads.
    """

    name: str
    kind: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    graph: Any
    inside: Any
    root: bool
    branch: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainEnd:
    """A chain that has ended.

    Attributes:
        start: How it started.
        output: What it returned; None if it failed.
        error: What it raised.
        context: OpenTelemetry context inside of it, for spans that belong to it.
    """

    start: ChainStart
    output: object
    error: BaseException | None
    context: Context


class GraphReader(Protocol):
    """Reads runs of graphs and their nodes."""

    def attributes(self, start: ChainStart) -> Mapping[str, str]:
        """What to add to the span of a chain, graph or node."""
        ...

    def ended(self, end: ChainEnd) -> None:
        """Called before the span of a chain, graph or node ends."""
        ...
