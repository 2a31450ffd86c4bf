"""Continuous learning: agents stay live, and what is learned goes candidate, canary, live — or back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from agentlightning._round import STRIDE, RoundContext
from agentlightning.algorithm import Algorithm, EvaluationReport
from agentlightning.errors import ConfigError
from agentlightning.promotion import Comparison, Verdict, by_tasks, by_traffic, traffic
from agentlightning.types import (
    Json,
    Mode,
    ResourceRecord,
    ResourceSet,
    ResourceState,
    Weights,
)

if TYPE_CHECKING:
    from agentlightning._session import Session

__all__ = ["Accept", "Continuous", "ContinuousLoop", "Traffic"]

_POLL_S: Final = 1.0
_PATIENCE: Final = 4
"""A canary that nothing can be said about is given up after so many times its rollouts."""


class Traffic(StrEnum):
    """Whose rollouts are the live ones: tasks that are played here, or what other workers of the store do."""

    STREAM = "stream"
    LIVE = "live"


class Accept(StrEnum):
    """What a set must show: a gain beyond its 95 % interval, or that no loss is beyond it."""

    GAIN = "gain"
    NO_LOSS = "no_loss"


class Continuous(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run learns while agents stay live. A round is traffic, a judgement, and learning.

    Attributes:
        traffic: Whose rollouts are the live ones.
        every_rollouts: A round begins after so many live rollouts; 0 counts none.
        every_seconds: And not before so many seconds have passed since the last one.
        accept: What a set must show on the held-out tasks to become a canary, and on traffic to become live. Without
            held-out tasks it becomes a canary at once.
        canary: Share of the live rollouts that a canary is given; 0 promotes on held-out tasks alone. New weights of
            the one engine of a run serve all rollouts, so their canary has all of them.
        canary_rollouts: Outcomes that a canary needs before it is judged; a set that became live is judged once more
            after so many, against the one before it.
        rounds: How many; 0 goes on until the run is stopped or its budget is exhausted.
    """

    traffic: Traffic = Traffic.STREAM
    every_rollouts: Annotated[int, msgspec.Meta(ge=0)] = 64
    every_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    accept: Accept = Accept.GAIN
    canary: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    canary_rollouts: Annotated[int, msgspec.Meta(ge=2)] = 32
    rounds: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if not self.every_rollouts and not self.every_seconds:
            raise ConfigError(
                "a round begins after every_rollouts or every_seconds, and both are 0; give one of them"
            )


class ContinuousLoop:
    """Rounds of traffic, judgement and learning. The states of resource sets in the store say where it is.

    Args:
        session: The run.
        algorithm: Learns a round; what it publishes as live is a candidate.
        rule: How.
    """

    def __init__(self, session: Session, algorithm: Algorithm, rule: Continuous) -> None:
        self._session = session
        self._algorithm = algorithm
        self._rule = rule
        self._reports: dict[str | None, EvaluationReport] = {}
        state = session.state
        self._round = int(str(state.get("round", 0)))
        self._logged = int(str(state.get("logged", 0)))
        self._cursor = int(str(state.get("cursor", 0)))
        self._watched = str(state.get("watched", ""))
        inner = state.get("inner")
        self._inner: Mapping[str, Json] = inner if isinstance(inner, Mapping) else {}

    async def run(self) -> None:
        """Learns until all rounds are done.

        Raises:
            ConfigError: There is nothing to judge by, or there are no tasks.
            BudgetExhausted: The budget allows no more; what is live stays live.
            Interrupted: The run was stopped.
        """
        self._check()
        await self._take_up_weights()
        await self._skip_the_past()
        while not self._rule.rounds or self._round < self._rule.rounds:
            canary = None
            if not self._inner:
                await self._wait_for_traffic()
                canary = await self._judge()
            if canary is None:
                await self._learn()
            self._round, self._inner = self._round + 1, {}
            await self.checkpoint({})
            await self._forget_weights()

    async def checkpoint(self, inner: Mapping[str, Json]) -> None:
        """Saves where the loop is, and where the algorithm is in its round."""
        state = {
            "round": self._round,
            "logged": self._logged,
            "cursor": self._cursor,
            "watched": self._watched,
            "inner": dict(inner),
        }
        await self._session.checkpoint(self._round, state)

    def _check(self) -> None:
        rule, session = self._rule, self._session
        if not session.train:
            raise ConfigError("continuous learning has no tasks; give some (train=… or --train FILE)")
        if not rule.canary and not session.val:
            raise ConfigError(
                "canary is 0 and there are no held-out tasks, so that nothing would be judged; give val=… (--val FILE) "
                "or canary a share of the traffic"
            )

    async def _skip_the_past(self) -> None:
        """The first round begins with rollouts that end from now on."""
        if self._rule.traffic is Traffic.LIVE and not self._session.state:
            while done := await self._session.store.rollouts.completions(after=self._cursor, limit=1_000):
                self._cursor = done[-1].cursor
            await self._session.event("continuous", "waits for live rollouts")

    async def _wait_for_traffic(self) -> None:
        """Returns after the live rollouts and the seconds of a round."""
        rule, session = self._rule, self._session
        until = time.monotonic() + rule.every_seconds
        if rule.traffic is Traffic.STREAM and rule.every_rollouts:
            first = self._round * rule.every_rollouts
            tasks = [
                session.train[place % len(session.train)]
                for place in range(first, first + rule.every_rollouts)
            ]
            rollouts = await session.rollouts(tasks, step=(self._round + 1) * STRIDE - 1)
            await session.experience(rollouts, step=self._round)
        seen = 0
        while (rule.traffic is Traffic.LIVE and seen < rule.every_rollouts) or time.monotonic() < until:
            session.raise_if_stopped()
            session.meter.check_time()
            done = await session.store.rollouts.completions(after=self._cursor, wait_s=_POLL_S, limit=1_000)
            self._cursor = done[-1].cursor if done else self._cursor
            seen += sum(
                one.rollout.mode is Mode.TRAIN and one.rollout.run_id != session.run.id for one in done
            )

    async def _judge(self) -> ResourceSet | None:
        """Promotes the canary or takes it back, or takes back what is live; returns a canary that needs more time."""
        live = await self._session.store.resources.live()
        canary = await self._newest(ResourceState.CANARY)
        if canary is None:
            await self._watch(live)
            return None
        everywhere = canary.weight == 1.0
        since = live.created_at if everywhere and live else canary.created_at
        found = await traffic(self._session.store, since=since)
        mine = found.get(canary.id, [])
        if len(mine) < self._rule.canary_rollouts:
            return canary
        compared = by_traffic(mine, found.get(live.id if live else None, []))
        if self._accepts(compared, judged_before=bool(self._session.val)):
            await self._move(canary, ResourceState.LIVE, why=f"live: {compared}")
            self._watched = ""
            return None
        if compared.verdict is Verdict.UNDECIDED and len(mine) < _PATIENCE * self._rule.canary_rollouts:
            return canary
        await self._take_back(canary, live, why=f"taken back: {compared}")
        return None

    def _accepts(self, compared: Comparison, *, judged_before: bool) -> bool:
        """A gain need be shown once: what has shown it on held-out tasks must only not lose on traffic."""
        if compared.verdict is Verdict.WORSE:
            return False
        return judged_before or self._rule.accept is Accept.NO_LOSS or compared.verdict is Verdict.BETTER

    async def _watch(self, live: ResourceSet | None) -> None:
        """Takes back what has become live, if its traffic is worse than that of the set before it."""
        if live is None or live.parent is None or live.id == self._watched:
            return
        before = await self._session.store.resources.get(live.parent)
        found = await traffic(self._session.store, since=before.created_at)
        mine, theirs = found.get(live.id, []), found.get(before.id, [])
        if min(len(mine), len(theirs)) < self._rule.canary_rollouts:
            return
        self._watched = live.id
        compared = by_traffic(mine, theirs)
        if compared.verdict is Verdict.WORSE:
            await self._take_back(live, before, why=f"taken back: {compared}")

    async def _learn(self) -> None:
        """One round of the algorithm; what it proposes is judged on the held-out tasks."""
        session = self._session
        live = await session.store.resources.live()
        before = await self._report(live)
        version = session.engine.version if session.engine else 0
        context = RoundContext(
            self.checkpoint, session, number=self._round, logged=self._logged, state=self._inner
        )
        await self._algorithm.fit(context)
        self._logged = context.logged
        proposed = context.proposed
        if session.learner is not None and session.engine is not None and session.engine.version != version:
            proposed = await self._propose_weights(proposed or live)
        if proposed is None:
            await session.event("continuous", f"round {self._round}: nothing was proposed")
            return
        await self._admit(proposed, live, before)

    async def _admit(
        self, proposed: ResourceSet, live: ResourceSet | None, before: EvaluationReport | None
    ) -> None:
        weight = 1.0 if self._has_weights(proposed) else self._rule.canary
        why = "canary: there are no held-out tasks"
        if before is not None:
            report = await self._evaluated(proposed)
            compared = by_tasks(report.outcomes, before.outcomes)
            if not self._accepts(compared, judged_before=False):
                await self._take_back(proposed, live, why=f"turned down: {compared}")
                return
            why = f"{'canary' if self._rule.canary else 'live'}: {compared}"
        state = ResourceState.CANARY if self._rule.canary else ResourceState.LIVE
        await self._move(proposed, state, weight=weight if self._rule.canary else 0.0, why=why)

    async def _report(self, live: ResourceSet | None) -> EvaluationReport | None:
        if not self._session.val:
            return None
        name = live.id if live else None
        if name not in self._reports:
            self._reports[name] = await self._evaluated(live)
        return self._reports[name]

    async def _evaluated(self, chosen: ResourceSet | None) -> EvaluationReport:
        label = f"set {chosen.version}" if chosen else "no set"
        report = await self._session.evaluate(label=label, step=self._round, resources=chosen)
        self._reports[chosen.id if chosen else None] = report
        return report

    async def _move(
        self, chosen: ResourceSet, state: ResourceState, *, why: str, weight: float = 0.0
    ) -> None:
        await self._session.store.resources.move(chosen.id, state, weight=weight)
        await self._session.event("continuous", f"round {self._round}: set {chosen.version} {why}")

    async def _take_back(self, chosen: ResourceSet, live: ResourceSet | None, *, why: str) -> None:
        """Retires a set, and puts the one before it back: in the store, and into the learner."""
        if live is not None:
            await self._session.store.resources.move(live.id, ResourceState.LIVE)
        await self._move(chosen, ResourceState.RETIRED, why=why)
        if live is not None and self._has_weights(chosen):
            await self._load_weights(live)

    async def _newest(self, state: ResourceState) -> ResourceSet | None:
        sets = await self._session.store.resources.list()
        return next((one for one in sets if one.state is state), None)

    async def _take_up_weights(self) -> None:
        """The learner gets the weights that the store says are served; at the very first, the store gets them."""
        session = self._session
        if session.learner is None or session.engine is None or self._inner:
            return
        served = await self._newest(ResourceState.CANARY) or await session.store.resources.live()
        if served is not None and self._has_weights(served):
            await self._load_weights(served)
        elif not session.state:
            first = await self._propose_weights(served)
            await self._move(first, ResourceState.LIVE, why="live: the weights that the run began with")

    async def _propose_weights(self, base: ResourceSet | None) -> ResourceSet:
        """The present weights beside whatever else is in a set."""
        session = self._session
        if session.learner is None or session.engine is None:
            raise ConfigError("this run has no engine that learns, so there are no weights to propose")
        place = session.directory / "weights" / f"{self._round:06d}-{session.engine.version}"
        place.mkdir(parents=True, exist_ok=True)
        await session.learner.save_state(place)
        weights = ResourceRecord.of(Weights(path=str(place), version=session.engine.version))
        live = await session.store.resources.live()
        return await session.store.resources.publish(
            {**(base.resources if base else {}), session.engine.model: weights},
            parent=live.id if live else None,
            state=ResourceState.CANDIDATE,
            run_id=session.run.id,
            step=self._round,
        )

    async def _forget_weights(self) -> None:
        """Deletes the weights of this run that nothing could come back to."""
        sets = {one.id: one for one in await self._session.store.resources.list()}
        served = [one for one in sets.values() if one.state in (ResourceState.LIVE, ResourceState.CANARY)]
        kept = {
            str(one.resources[self._session.engine.model].value["path"])
            for one in [*served, *(sets[each.parent] for each in served if each.parent in sets)]
            if self._session.engine is not None and self._has_weights(one)
        }
        for place in (self._session.directory / "weights").glob("*"):
            if str(place) not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def _has_weights(self, chosen: ResourceSet) -> bool:
        model = self._session.engine.model if self._session.engine and self._session.learner else None
        return model in chosen.resources and chosen.resources[model].kind == Weights.kind

    async def _load_weights(self, chosen: ResourceSet) -> None:
        session = self._session
        if session.learner is None or session.engine is None or not self._has_weights(chosen):
            return
        value = chosen.resources[session.engine.model].value
        if session.engine.version != value["version"]:
            async with session.weight_update():
                await session.learner.load_state(Path(str(value["path"])))
