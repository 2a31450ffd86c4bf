"""One round of continuous learning, as its algorithm sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from agentlightning.algorithm import EvaluationReport
from agentlightning.compose._context import PartContext
from agentlightning.types import Experience, Json, Mode, Resource, ResourceSet, Rollout

if TYPE_CHECKING:
    from agentlightning._session import Session
    from agentlightning.store import Store

STRIDE: Final = 1_000_000
"""Steps between the rollouts of two rounds, so that their groups and seeds differ."""


class RoundContext(PartContext):
    """The run as the algorithm of one round sees it: what it publishes as live is a candidate.

    Args:
        save: Saves the algorithm's state with that of the loop.
        session: The run.
        number: Of the round, from 0.
        logged: Steps of metrics of the rounds before.
        state: What the algorithm saved last in this round; empty at its start.
        proposed: What it had published by then.

    Attributes:
        proposed: What it published last.
        logged: Steps of metrics so far, over all rounds.
    """

    def __init__(
        self,
        save: Callable[[Mapping[str, Json]], Awaitable[None]],
        session: Session,
        *,
        number: int,
        logged: int,
        state: Mapping[str, Json],
        proposed: ResourceSet | None = None,
    ) -> None:
        super().__init__(session, state=state)
        self._save = save
        self._number = number
        self._base = logged
        self.logged = logged
        self.proposed = proposed
        self.seed = session.seed + number
        self.val: Sequence[Json] = ()

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        return await self._whole.rollouts(
            tasks, samples=samples, mode=mode, step=self._number * STRIDE + step, resources=resources
        )

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        return await self._whole.experience(rollouts, step=self._base + step, source=source)

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        tasks = self._whole.val if tasks is None else tasks
        label = f"round {self._number}/{label}"
        return await self._whole.evaluate(tasks, label=label, step=self._base + step, resources=resources)

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        published = await self._whole.publish(resources, step=self._base + step, live=False)
        if live:
            self.proposed = published
        return published

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.logged = max(self.logged, self._base + step + 1)
        await self._whole.log(metrics, step=self._base + step)

    async def phase(self, name: str, *, total: int | None = None) -> None:
        await self._whole.phase(f"round {self._number}: {name}", total=total)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        del step  # of the round; the loop's is what a checkpoint is known by
        await self._save(state)
