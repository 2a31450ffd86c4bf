"""The run as a part of a composition sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from agentlightning.algorithm import EvaluationReport, TrainingContext
from agentlightning.store import Store
from agentlightning.types import Experience, Json, Mode, Resource, ResourceSet, Rollout


class PartContext:
    """A `TrainingContext` that is the whole run's in everything but the state; parts override what differs.

    Args:
        whole: The run, or the composition around this one.
        state: What the part saved last.
    """

    def __init__(self, whole: TrainingContext, *, state: Mapping[str, Json]) -> None:
        self._whole = whole
        self.state = state
        self.run = whole.run
        self.seed = whole.seed
        self.train = whole.train
        self.val = whole.val
        self.store = whole.store
        self.engine = whole.engine
        self.learner = whole.learner

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        """See `TrainingContext.rollouts`."""
        return await self._whole.rollouts(tasks, samples=samples, mode=mode, step=step, resources=resources)

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        """See `TrainingContext.experience`."""
        return await self._whole.experience(rollouts, step=step, source=source)

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        """See `TrainingContext.evaluate`."""
        return await self._whole.evaluate(tasks, label=label, step=step, resources=resources)

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        """See `TrainingContext.publish`."""
        return await self._whole.publish(resources, step=step, live=live)

    def weight_update(self) -> AbstractAsyncContextManager[None]:
        """See `TrainingContext.weight_update`."""
        return self._whole.weight_update()

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """See `TrainingContext.log`."""
        await self._whole.log(metrics, step=step)

    async def phase(self, name: str, *, total: int | None = None) -> None:
        """See `TrainingContext.phase`."""
        await self._whole.phase(name, total=total)

    async def event(self, kind: str, message: str) -> None:
        """See `TrainingContext.event`."""
        await self._whole.event(kind, message)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        """See `TrainingContext.checkpoint`."""
        await self._whole.checkpoint(step, state)


def named(metrics: Mapping[str, float], *, name: str) -> dict[str, float]:
    """Metrics that carry the name of their part, so that series of several parts do not mix."""
    return {key if key.startswith(f"{name}/") else f"{name}/{key}": value for key, value in metrics.items()}


def part_state(state: Json) -> Mapping[str, Json]:
    """What a part saved, out of its composition's checkpoint."""
    return state if isinstance(state, Mapping) else {}
