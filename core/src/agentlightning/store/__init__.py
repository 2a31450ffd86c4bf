"""The store: a durable queue and log where agents, runners and algorithms meet."""

from agentlightning.store._protocols import (
    AppendResult,
    Page,
    ResourceStore,
    RolloutQuery,
    RolloutStore,
    RunStore,
    SpanQuery,
    SpanStore,
    Store,
)

__all__ = [
    "AppendResult",
    "Page",
    "ResourceStore",
    "RolloutQuery",
    "RolloutStore",
    "RunStore",
    "SpanQuery",
    "SpanStore",
    "Store",
]
