"""One after another: each algorithm goes on from what the one before it learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentlightning.algorithm import Algorithm, TrainingContext
from agentlightning.compose._context import PartContext, named, part_state
from agentlightning.compose._turns import told_by
from agentlightning.types import Json


class SequenceAlgorithm:
    """Runs algorithms in order. Which one it is at, and that one's own state, are in every checkpoint."""

    def __init__(self, algorithms: Sequence[Algorithm]) -> None:
        self._algorithms = list(algorithms)
        self.name = "+".join(algorithm.name for algorithm in algorithms)

    async def fit(self, context: TrainingContext) -> None:
        """Runs the algorithms that are not finished yet."""
        first = int(str(context.state.get("part", 0)))
        for part in range(first, len(self._algorithms)):
            algorithm = self._algorithms[part]
            with told_by(algorithm.name):
                await algorithm.fit(
                    _Part(
                        context,
                        part=part,
                        prefix=algorithm.name if part + 1 < len(self._algorithms) else "",
                        state=part_state(context.state.get("state")) if part == first else {},
                    )
                )
            if part + 1 < len(self._algorithms):
                await context.checkpoint(0, {"part": part + 1, "state": {}})


class _Part(PartContext):
    """Metrics of all but the last algorithm carry its name."""

    def __init__(self, whole: TrainingContext, *, part: int, prefix: str, state: Mapping[str, Json]) -> None:
        super().__init__(whole, state=state)
        self._part = part
        self._prefix = prefix

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        await self._whole.log(named(metrics, name=self._prefix) if self._prefix else metrics, step=step)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        await self._whole.checkpoint(step, {"part": self._part, "state": dict(state)})
