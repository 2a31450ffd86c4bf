"""What a plugin needs to bring a store backend of its own: the tables to implement, and all that runs on them.

A backend implements `Tables` over its medium and an `Executor` that runs operations in transactions; `BackedStore`
makes a store of both. Everything that means something (leases, retries, fencing, versions) is in the operations
that the executor is given, and is the same for every backend. `sweep` and `forget_keys` are the two operations that
an executor runs by itself.
"""

from agentlightning.store._backed import BackedStore
from agentlightning.store._executor import (
    FORGET_INTERVAL_S,
    SWEEP_INTERVAL_S,
    Executor,
    forget_keys,
)
from agentlightning.store._jobs import Job, deliver
from agentlightning.store._limits import Limits
from agentlightning.store._notifier import Notifier
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
    "Limits",
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
    "Unit",
    "deliver",
    "forget_keys",
    "is_filtered",
    "summaries",
    "sweep",
]
