"""The store: a durable queue and log where agents, runners and algorithms meet."""

from agentlightning.store._memory_store import MemoryStore
from agentlightning.store._open import open_store
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
from agentlightning.store._sqlite_store import SqliteStore

__all__ = [
    "AppendResult",
    "MemoryStore",
    "Page",
    "ResourceStore",
    "RolloutQuery",
    "RolloutStore",
    "RunStore",
    "SpanQuery",
    "SpanStore",
    "SqliteStore",
    "Store",
    "open_store",
]
