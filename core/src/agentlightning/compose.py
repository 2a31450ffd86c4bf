"""Composition: algorithms one after another in one run, each going on from what the one before it learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from agentlightning.algorithm import Algorithm, EvaluationReport, TrainingContext
from agentlightning.engine import InferenceEngine, Learner
from agentlightning.store import Store
from agentlightning.types import Experience, Json, Mode, Resource, ResourceSet, Rollout, Run


class SequenceAlgorithm:
    """Runs algorithms in order. Which one it is at, and that one's own state, are in every checkpoint."""

    def __init__(self, algorithms: Sequence[Algorithm]) -> None:
        self._algorithms = list(algorithms)
        self.name = "+".join(algorithm.name for algorithm in algorithms)

    async def fit(self, context: TrainingContext) -> None:
        """Runs the algorithms that are not finished yet."""
        state = context.state
        first = int(str(state.get("part", 0)))
        inner = state.get("state", {})
        for part in range(first, len(self._algorithms)):
            algorithm = self._algorithms[part]
            resumed = inner if part == first and isinstance(inner, Mapping) else {}
            await algorithm.fit(
                _Part(context, part=part, count=len(self._algorithms), name=algorithm.name, state=resumed)
            )
            if part + 1 < len(self._algorithms):
                await context.checkpoint(0, {"part": part + 1, "state": {}})


class _Part:
    """The context as one algorithm of a sequence sees it."""

    def __init__(
        self, whole: TrainingContext, *, part: int, count: int, name: str, state: Mapping[str, Json]
    ) -> None:
        self._whole = whole
        self._part = part
        self._prefix = "" if part == count - 1 else f"{name}/"
        self._name = name
        self.state = state
        self.run: Run = whole.run
        self.seed: int = whole.seed
        self.train: Sequence[Json] = whole.train
        self.val: Sequence[Json] = whole.val
        self.store: Store = whole.store
        self.engine: InferenceEngine | None = whole.engine
        self.learner: Learner | None = whole.learner

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        return await self._whole.rollouts(tasks, samples=samples, mode=mode, step=step, resources=resources)

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        return await self._whole.experience(rollouts, step=step, source=source)

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        return await self._whole.evaluate(tasks, label=label, step=step, resources=resources)

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        return await self._whole.publish(resources, step=step, live=live)

    def weight_update(self) -> AbstractAsyncContextManager[None]:
        return self._whole.weight_update()

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of all but the last algorithm carry its name, so that series do not mix."""
        await self._whole.log({self._prefixed(name): value for name, value in metrics.items()}, step=step)

    def _prefixed(self, name: str) -> str:
        return name if name.startswith(f"{self._name}/") else self._prefix + name

    async def phase(self, name: str, *, total: int | None = None) -> None:
        await self._whole.phase(name, total=total)

    async def event(self, kind: str, message: str) -> None:
        await self._whole.event(kind, message)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        await self._whole.checkpoint(step, {"part": self._part, "state": dict(state)})
