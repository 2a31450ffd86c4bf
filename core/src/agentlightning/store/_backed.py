"""What `memory://` and `sqlite:///` share: the four parts over an executor, opened and closed together."""

from __future__ import annotations

import asyncio
from typing import Self

from agentlightning.store._executor import Executor
from agentlightning.store._notifier import Notifier
from agentlightning.store._protocols import ResourceStore, RolloutStore, RunStore, SpanStore
from agentlightning.store._resources import Resources
from agentlightning.store._rollouts import Rollouts
from agentlightning.store._runs import Runs
from agentlightning.store._spans import Spans


class BackedStore:
    """A store over an executor. It may be entered several times; the last exit closes it."""

    def __init__(self, url: str, *, executor: Executor, notifier: Notifier) -> None:
        self.url = url
        self.rollouts: RolloutStore = Rollouts(executor, notifier)
        self.spans: SpanStore = Spans(executor)
        self.resources: ResourceStore = Resources(executor)
        self.runs: RunStore = Runs(executor)
        self._executor = executor

    async def sweep(self) -> int:
        """Expires overdue leases and attempts now; returns how many."""
        return await self._executor.write(lambda unit: unit.swept)

    async def __aenter__(self) -> Self:
        """Opens or creates it."""
        await asyncio.to_thread(self._executor.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Closes it; everything acknowledged stays."""
        await asyncio.to_thread(self._executor.stop)
