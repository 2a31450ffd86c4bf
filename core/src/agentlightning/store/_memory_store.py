"""`memory://`: the store's semantics without durability, for tests and notebooks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from agentlightning.store._backed import BackedStore
from agentlightning.store._executor import MemoryExecutor
from agentlightning.store._limits import Limits
from agentlightning.store._memory_tables import MemoryTables
from agentlightning.store._notifier import Notifier


class MemoryStore(BackedStore):
    """A store in this process' memory, as long as the object lives."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        limits: Limits | None = None,
    ) -> None:
        notifier = Notifier()
        executor = MemoryExecutor(MemoryTables(), notifier, clock=clock, new_id=new_id)
        super().__init__("memory://", executor=executor, notifier=notifier, limits=limits)
