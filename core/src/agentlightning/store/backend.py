"""For authors of store backends: tables over a medium, an executor that runs operations, and the rest is shared.

A backend implements `Tables` over its medium and an `Executor` that runs each operation in a transaction that begins
with `sweep`; `BackedStore` over it has the semantics of every other, and `agentlightning.testing.StoreContract` tells
whether it is so.
"""

from agentlightning.store._backed import BackedStore
from agentlightning.store._executor import (
    FORGET_INTERVAL_S,
    SWEEP_INTERVAL_S,
    Executor,
    forget_keys,
)
from agentlightning.store._jobs import Job, deliver
from agentlightning.store._notifier import Notifier, Topic
from agentlightning.store._rollout_operations import sweep
from agentlightning.store._rows import (
    SEQUENCE_BITS,
    AttemptRow,
    FoundSpan,
    ResourceRow,
    RewardRow,
    RolloutRow,
    RunRow,
    SpanRange,
    SpanRow,
    is_filtered,
)
from agentlightning.store._summaries import summaries
from agentlightning.store._tables import (
    AttemptTable,
    BlobTable,
    KeyTable,
    ResourceTable,
    RolloutTable,
    RunTable,
    SpanTable,
    Tables,
)
from agentlightning.store._unit import Changes, Operation, Result, Unit

__all__ = [
    "FORGET_INTERVAL_S",
    "SEQUENCE_BITS",
    "SWEEP_INTERVAL_S",
    "AttemptRow",
    "AttemptTable",
    "BackedStore",
    "BlobTable",
    "Changes",
    "Executor",
    "FoundSpan",
    "Job",
    "KeyTable",
    "Notifier",
    "Operation",
    "ResourceRow",
    "ResourceTable",
    "Result",
    "RewardRow",
    "RolloutRow",
    "RolloutTable",
    "RunRow",
    "RunTable",
    "SpanRange",
    "SpanRow",
    "SpanTable",
    "Tables",
    "Topic",
    "Unit",
    "deliver",
    "forget_keys",
    "is_filtered",
    "summaries",
    "sweep",
]
