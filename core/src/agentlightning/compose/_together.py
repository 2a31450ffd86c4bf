"""At once: several algorithms learn from one stream of rollouts, in lockstep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from agentlightning.algorithm import Algorithm, EvaluationReport, TrainingContext
from agentlightning.compose._context import part_state
from agentlightning.compose._member import (
    Batch,
    Evaluating,
    Member,
    NextStep,
    Pinned,
    Publishing,
    Wanted,
)
from agentlightning.compose._resources import Owners, Records
from agentlightning.compose._turns import Request, owned
from agentlightning.errors import ConfigError
from agentlightning.types import Json, Resource, ResourceSet, Rollout

_Answer = TypeVar("_Answer")
_Kind = TypeVar("_Kind", Evaluating, NextStep, Publishing, Wanted)


class TogetherAlgorithm:
    """Lets algorithms learn from the same rollouts. The state of every one is in every checkpoint.

    The first that has not ended leads: tasks, groups and steps are its own. The others wait in `rollouts` until it has
    logged a step, and are handed what that was learned from. Only one of them runs at a time, in order, so that weights
    never change under another one, and a run repeats itself.
    """

    def __init__(self, algorithms: Sequence[Algorithm]) -> None:
        self._algorithms = list(algorithms)
        self.name = "+".join(algorithm.name for algorithm in algorithms)

    async def fit(self, context: TrainingContext) -> None:
        """Runs until every part has ended.

        Raises:
            ConfigError: Parts change one resource, or one that does not lead plays several batches at a time.
        """
        meeting = _Meeting(context, self._algorithms)
        async with owned(meeting.members):
            await meeting.run()


class _Meeting:
    """Where the parts wait for each other; implements `Stream`."""

    def __init__(self, context: TrainingContext, algorithms: Sequence[Algorithm]) -> None:
        self._context = context
        self._owners = Owners([algorithm.name for algorithm in algorithms])
        self.reports: dict[str, EvaluationReport] = {}
        self._rollouts: list[Rollout] = []
        self._looked_at: Batch | None = None
        self._settled: tuple[int, Batch] | None = None
        self._candidate: ResourceSet | None = None
        self._warned = False
        found = context.state.get("parts")
        saved = [part_state(one) for one in found] if isinstance(found, list) else [{} for _ in algorithms]
        self._over = [one.get("ended") is True for one in saved]
        self.members = [
            Member(context, algorithm=algorithm, index=index, state=part_state(one.get("state")), stream=self)
            for index, (algorithm, one) in enumerate(zip(algorithms, saved, strict=True))
        ]
        for index, one in enumerate(saved):
            names = one.get("resources")
            self._owners.restore(index, [str(name) for name in names] if isinstance(names, list) else [])

    def leads(self, member: Member) -> bool:
        return self._over.index(False) == member.index

    @property
    def undelivered(self) -> bool:
        return self._settled is not None

    def played(self, rollouts: Sequence[Rollout]) -> None:
        self._rollouts += rollouts

    def learned_from(self, batch: Batch) -> None:
        self._looked_at = batch

    def settle(self, member: Member) -> None:
        batch = self._looked_at
        if batch is None and self._rollouts:
            batch = Batch(rollouts=tuple(self._rollouts), experience=None)
        if batch is not None:
            self._settled, self._looked_at, self._rollouts = (member.index, batch), None, []

    def changed(self) -> None:
        self.reports.clear()

    async def run(self) -> None:
        """Lets the parts go on, each until it waits, and answers what they wait for, until all have ended."""
        for member in self._running():
            await self._turn(member)
        while running := self._running():
            if self._settled is not None:
                await self._deliver()
            elif publishing := _asked(running, Publishing):
                await self._publish(dict(publishing))
            else:
                await self._write()
                for member, request in (evaluating := _asked(running, Evaluating)):
                    await self._go_on(member, request, None)
                if not evaluating:
                    await self._next_step(running)
        await self._write()

    def _running(self) -> list[Member]:
        return [one for one in self.members if not self._over[one.index]]

    async def _turn(self, member: Member) -> None:
        await member.turn()
        if member.ended:
            self._over[member.index] = True
            member.at = None  # what it has not put live is given up

    async def _go_on(self, member: Member, request: Request[_Answer], answer: _Answer) -> None:
        member.grant(request, answer)
        await self._turn(member)

    async def _deliver(self) -> None:
        """Hands a step to those that wait for rollouts, but not to the one that made it."""
        assert self._settled is not None  # noqa: S101 - asked before
        (source, batch), self._settled = self._settled, None
        for member, request in _asked(self._running(), Wanted):
            if member.index != source:
                await self._go_on(member, request, batch)

    async def _next_step(self, running: Sequence[Member]) -> None:
        """Everybody waits for rollouts: the part that leads may play, or go on with what it has."""
        await self._drop_unwritten()
        lead, *others = running
        for member in others:
            if len(member.asked) > 1:
                raise ConfigError(
                    f"{member.algorithm.name!r} plays {len(member.asked)} batches of rollouts at a time, which only "
                    "the part that leads may; name it first, or turn that off (max_staleness = 0)"
                )
        self.changed()
        wishes = [request.resources for _, request in _asked(others, Wanted)]
        for member, request in [(lead, one) for one in lead.asked]:
            if isinstance(request, Wanted):
                member.grant(request, Pinned(resources=await self._pinned(member, request, wishes)))
            elif isinstance(request, NextStep):
                member.grant(request, None)
        await self._turn(lead)

    async def _pinned(
        self, lead: Member, wanted: Wanted, wishes: Sequence[ResourceSet | None]
    ) -> ResourceSet | None:
        """The set that has every part's resources as that part wants them; None if nobody wants other than is live."""
        asked = [one for one in (wanted.resources, *wishes) if one is not None]
        if not asked:
            return None
        live = await self._context.store.resources.live()
        current: Records = live.resources if live else {}
        content = self._owners.merged(
            {lead.index: wanted.resources.resources if wanted.resources else current},
            rest={member.index: member.at or current for member in self.members},
        )
        for known in (self._candidate, *asked, live):
            if known is not None and known.resources == content:
                return known
        return await self._made(content, step=0, live=False, parent=live)

    async def _publish(self, publishing: Mapping[Member, Publishing]) -> None:
        """Makes one set of all that parts publish live, and one of all their candidates."""
        live = await self._context.store.resources.live()
        for member, request in publishing.items():
            self._owners.claim(member.index, request.resources, live=live.resources if live else {})
        made: dict[bool, ResourceSet] = {}
        for kind in (True, False):
            chosen = {member: one for member, one in publishing.items() if one.live is kind}
            if not chosen:
                continue
            current: Records = live.resources if live else {}
            content = self._owners.merged(
                {member.index: one.resources for member, one in chosen.items()},
                rest={one.index: current if kind else one.at or current for one in self.members},
            )
            step = next(iter(chosen.values())).step
            made[kind] = await self._made(content, step=step, live=kind, parent=live)
            live = made[kind] if kind else live
            for member in chosen:
                member.at = made[kind].resources
        for member, request in publishing.items():
            await self._go_on(member, request, made[request.live])

    async def _made(
        self, content: Records, *, step: int, live: bool, parent: ResourceSet | None
    ) -> ResourceSet:
        """A set in the store; the last candidate if that is the same."""
        last = self._candidate
        same_parent = last is not None and last.parent == (parent.id if parent else None)
        if last is not None and not live and same_parent and last.resources == content:
            return last
        found = await self._context.publish(cast("Mapping[str, Resource]", content), step=step, live=live)
        if live:
            self.changed()
        else:
            self._candidate = found
        return found

    async def _write(self) -> None:
        """What the parts have said in a step: their numbers at once, and a checkpoint if all have saved."""
        said = [member.said for member in self.members if member.said.metrics]
        if said:
            *earlier, (step, metrics) = said[0].metrics
            for before in earlier:
                await self._context.log(before[1], step=before[0])
            for other in said[1:]:
                for _, own in other.metrics:
                    metrics |= own
            await self._context.log(metrics, step=step)
            for one in said:
                one.metrics.clear()
        saved = [member.said.checkpoint for member in self.members if member.said.checkpoint]
        if saved and all(member.said.checkpoint for member in self._running()):
            parts: list[Json] = [self._saved(member) for member in self.members]
            for member in self.members:
                member.said.checkpoint = None
            await self._context.checkpoint(saved[0][0], {"parts": parts})

    def _saved(self, member: Member) -> dict[str, Json]:
        own: dict[str, Json] = {"resources": list(self._owners.of(member.index))}
        if self._over[member.index] or member.said.checkpoint is None:
            return own | {"ended": True}
        return own | {"state": member.said.checkpoint[1]}

    async def _drop_unwritten(self) -> None:
        """States of different steps make no checkpoint; that is said once."""
        missing = [member.algorithm.name for member in self._running() if member.said.checkpoint is None]
        saved = [member for member in self.members if member.said.checkpoint]
        for member in saved:
            member.said.checkpoint = None
        if saved and not self._warned:
            self._warned = True
            await self._context.event(
                "checkpoint_left_out",
                f"{saved[0].algorithm.name!r} saved its state and {missing!r} did not; a checkpoint is written at "
                "steps at which all do, so give them the same checkpoint_every",
            )


def _asked(members: Sequence[Member], kind: type[_Kind]) -> list[tuple[Member, _Kind]]:
    """What members wait for, of a kind: the first of each."""
    found = (
        (member, next((one for one in member.asked if isinstance(one, kind)), None)) for member in members
    )
    return [(member, one) for member, one in found if one is not None]
