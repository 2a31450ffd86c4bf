"""The run as one part of `together` sees it: what it asks for is answered when all have come as far."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from agentlightning.algorithm import Algorithm, EvaluationReport, TrainingContext
from agentlightning.compose._context import named
from agentlightning.compose._resources import Records, recorded
from agentlightning.compose._turns import Request, TurnContext
from agentlightning.store import Store
from agentlightning.types import Experience, Json, Mode, Resource, ResourceSet, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step is learned from.

    Attributes:
        experience: As the pipeline made it; None if the part that leads did not ask for it.
    """

    rollouts: tuple[Rollout, ...]
    experience: Experience | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """Leave to play, pinned to a set of all parts' resources; None is what is live."""

    resources: ResourceSet | None


@dataclass(eq=False, kw_only=True)
class Wanted(Request["Batch | Pinned"]):
    """Rollouts for training, pinned to `resources`."""

    resources: ResourceSet | None


@dataclass(eq=False, kw_only=True)
class NextStep(Request[None]):
    """Leave to go on with the next step."""


@dataclass(eq=False, kw_only=True)
class Publishing(Request[ResourceSet]):
    """A resource set."""

    resources: Records
    step: int
    live: bool


@dataclass(eq=False, kw_only=True)
class Evaluating(Request[None]):
    """Leave to evaluate."""


class Stream(Protocol):
    """What the parts share."""

    reports: dict[str, EvaluationReport]

    def leads(self, member: Member) -> bool:
        """Whether it is this part's rollouts that all learn from."""
        ...

    def played(self, rollouts: Sequence[Rollout]) -> None:
        """Takes in rollouts of the part that leads."""
        ...

    def learned_from(self, batch: Batch) -> None:
        """Takes in what the part that leads looks at."""
        ...

    def settle(self, member: Member) -> None:
        """Hands what the part that leads has learned from to the others, if there is anything."""
        ...

    @property
    def undelivered(self) -> bool:
        """Whether others have yet to learn from what the part that leads has learned from."""
        ...

    def changed(self) -> None:
        """What is evaluated from now on may do better or worse."""
        ...


@dataclass(kw_only=True)
class Said:
    """What a part has said in a step and is not written yet.

    Attributes:
        metrics: By step, in order.
        checkpoint: Step and state that it saved.
    """

    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    checkpoint: tuple[int, dict[str, Json]] | None = None


class Member(TurnContext):
    """A part of `together`.

    Attributes:
        at: The resources that it has published or asked for last; None is what is live.
        said: What is not written yet.
    """

    def __init__(
        self,
        whole: TrainingContext,
        *,
        algorithm: Algorithm,
        index: int,
        state: Mapping[str, Json],
        stream: Stream,
    ) -> None:
        super().__init__(whole, algorithm=algorithm, index=index, state=state)
        self._stream = stream
        self._batch: Batch | None = None
        self.at: Records | None = None
        self.said = Said()

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        """Training rollouts are played as the part that leads wants them, once for all."""
        if mode is not Mode.TRAIN:
            return await self._whole.rollouts(
                tasks, samples=samples, mode=mode, step=step, resources=resources
            )
        self.at = resources.resources if resources else None
        found = await self.ask(Wanted(resources=resources))
        if isinstance(found, Batch):
            self._batch = found
            return list(found.rollouts)
        played = await self._whole.rollouts(tasks, samples=samples, step=step, resources=found.resources)
        self._stream.played(played)
        return played

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        """What the part that leads has made of the same rollouts, if it is that."""
        batch = self._batch
        if batch and batch.experience and _ids(batch.rollouts) == _ids(rollouts):
            return batch.experience
        if self._stream.leads(self) and self._stream.undelivered:
            await self.ask(NextStep())
        found = await self._whole.experience(rollouts, step=step, source=source)
        if self._stream.leads(self):
            self._stream.learned_from(Batch(rollouts=tuple(rollouts), experience=found))
        return found

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        """What is live is evaluated once on the held-out tasks, however many ask for it."""
        await self.ask(Evaluating())
        common = tasks is None and resources is None
        if common and label in self._stream.reports:
            return self._stream.reports[label]
        if self.index and not common:
            label = f"{self.algorithm.name}/{label}"
        report = await self._whole.evaluate(tasks, label=label, step=step, resources=resources)
        if common:
            self._stream.reports[label] = report
        return report

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        """A set with the resources of all parts; those that are published at a time are one set."""
        return await self.ask(Publishing(resources=recorded(resources), step=step, live=live))

    @asynccontextmanager
    async def weight_update(self) -> AsyncIterator[None]:
        """See `TrainingContext.weight_update`."""
        self._stream.changed()
        async with self._whole.weight_update():
            yield

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """A step is over once the part that leads logs it; others learn from it then, and all is written at once."""
        own = named(metrics, name=self.algorithm.name) if self.index else dict(metrics)
        self.said.metrics.append((step, own))
        if self._stream.leads(self):
            self._stream.settle(self)

    async def phase(self, name: str, *, total: int | None = None) -> None:
        """Progress is that of the part that leads."""
        if self._stream.leads(self):
            await self._whole.phase(name, total=total)
        else:
            await self._whole.event("phase", name)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        """Written as soon as every part has saved its own."""
        self.said.checkpoint = (step, dict(state))


def _ids(rollouts: Sequence[Rollout]) -> list[str]:
    return [rollout.id for rollout in rollouts]
