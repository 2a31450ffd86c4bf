"""The store: a durable queue and log where agents, runners and algorithms meet."""

from agentlightning.store._limits import Limits
from agentlightning.store._memory_store import MemoryStore
from agentlightning.store._open import open_store
from agentlightning.store._protocols import (
    ResourceStore,
    RolloutStore,
    RunStore,
    SpanStore,
    Store,
)
from agentlightning.store._queries import AppendResult, Page, RolloutQuery, SpanQuery
from agentlightning.store._records import (
    AttemptRecord,
    EventRecord,
    Loaded,
    MetricRecord,
    Record,
    ResourceSetRecord,
    Retention,
    RewardKey,
    RewardSummary,
    RolloutRecord,
    RunRecord,
    SpanRecord,
    Statistics,
    Trimmed,
)
from agentlightning.store._sqlite_store import SqliteStore

__all__ = [
    "AppendResult",
    "AttemptRecord",
    "EventRecord",
    "Limits",
    "Loaded",
    "MemoryStore",
    "MetricRecord",
    "Page",
    "Record",
    "ResourceSetRecord",
    "ResourceStore",
    "Retention",
    "RewardKey",
    "RewardSummary",
    "RolloutQuery",
    "RolloutRecord",
    "RolloutStore",
    "RunRecord",
    "RunStore",
    "SpanQuery",
    "SpanRecord",
    "SpanStore",
    "SqliteStore",
    "Statistics",
    "Store",
    "Trimmed",
    "open_store",
]
