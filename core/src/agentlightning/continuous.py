"""Continuous learning: agents stay live, and what is learned goes candidate, canary, live — or back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from agentlightning._round import STRIDE, RoundContext
from agentlightning._set_weights import SetWeights
from agentlightning.algorithm import Algorithm
from agentlightning.errors import ConfigError
from agentlightning.promotion import STREAM, Comparison, LiveRollouts, Verdict, by_tasks, by_traffic, traffic
from agentlightning.types import Json, ResourceSet, ResourceState

if TYPE_CHECKING:
    from agentlightning._session import Session

__all__ = ["Accept", "Continuous", "ContinuousLoop", "Traffic"]

_LISTED: Final = 100
_POLL_S: Final = 1.0
_PATIENCE: Final = 4
"""A canary that nothing can be said about is given up after so many times its rollouts."""
Outcomes = tuple[float | None, ...]
"""Of each held-out task, in order; None where there is none."""


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
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.structs.force_setattr(self, field.name, msgspec.convert(value, type=field.type))
            except msgspec.ValidationError as error:
                raise ConfigError(
                    f"{field.name}={value!r} of continuous learning cannot be used: {error}"
                ) from error
        if not self.every_rollouts and not self.every_seconds:
            raise ConfigError(
                "a round begins after every_rollouts or every_seconds, and both are 0; give one of them"
            )
        if self.traffic is Traffic.STREAM and self.canary and not self.every_rollouts:
            raise ConfigError(
                "no rollout is played in a round, as every_rollouts is 0, and a canary would never be judged; give "
                "every_rollouts, traffic='live' (--live), or canary 0"
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
        self._weights = SetWeights(session)
        self._live = LiveRollouts(session.store)
        self._context: RoundContext | None = None
        self._begun = 0
        state = session.state
        self._outcomes = _outcomes(state.get("outcomes"))
        self._round = int(str(state.get("round", 0)))
        self._logged = int(str(state.get("logged", 0)))
        self._reached = int(str(state.get("reached", self._logged)))
        self._cursor = int(str(state.get("cursor", 0)))
        self._watched = str(state.get("watched", ""))
        self._newest_set = int(str(state.get("newest_set", 0)))
        self._proposed = str(state.get("proposed", ""))
        self._trained = bool(state.get("trained", False))
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
        await self._settle_what_was_left()
        await self._take_up_weights()
        await self._skip_the_past()
        if not self._session.state:
            await self.checkpoint({})
        while not self._rule.rounds or self._round < self._rule.rounds:
            canary = None
            if not self._inner:
                await self._take_up_weights()
                await self._wait_for_traffic()
                canary = await self._judge()
            if canary is None:
                await self._learn()
            self._next_round()
            await self.checkpoint({})
            await self._weights.forget(await self._served())

    async def checkpoint(self, inner: Mapping[str, Json]) -> None:
        """Saves where the loop is, and where the algorithm is in its round."""
        session = self._session
        live = await session.store.resources.live()
        sets = await session.store.resources.list(limit=1)
        known = self._outcomes.get(live.id if live else None)
        state: dict[str, Json] = {
            "round": self._round,
            "logged": self._logged,
            "cursor": self._cursor,
            "watched": self._watched,
            "newest_set": sets[0].version if sets else 0,
            "outcomes": {"set": live.id if live else None, "values": list(known)} if known else None,
            "inner": dict(inner),
            "reached": max(self._reached, self._context.logged if self._context else 0),
            "proposed": self._proposed_id(),
            "trained": self._has_trained(),
        }
        await session.checkpoint(self._round, state)

    async def _settle_what_was_left(self) -> None:
        """Sorts out what the process that was killed has published after its last checkpoint.

        The round is over if its proposal was decided on; what nobody has decided on is proposed anew.
        """
        resources = self._session.store.resources
        sets = await resources.list(run_id=self._session.run.id)
        left = [one for one in sets if one.version > self._newest_set]
        newest = left[0] if left else await resources.get(self._proposed) if self._proposed else None
        if newest is None:
            return
        if self._session.state and newest.state is not ResourceState.CANDIDATE:
            self._logged = self._reached
            self._next_round()
            return
        if self._session.state and left:
            await self.checkpoint(self._inner)
        for one in left:
            if one.state is ResourceState.CANDIDATE:
                await self._move(
                    one, ResourceState.RETIRED, why="retired: the run was killed before it was judged"
                )

    def _next_round(self) -> None:
        self._round, self._inner = self._round + 1, {}
        self._context, self._proposed, self._trained = None, "", False

    def _proposed_id(self) -> str:
        if self._context is None:
            return self._proposed
        return self._context.proposed.id if self._context.proposed else ""

    def _has_trained(self) -> bool:
        """Whether the learner's weights are others than at the start of the round."""
        engine = self._session.engine
        return self._trained or (
            self._context is not None and engine is not None and engine.version != self._begun
        )

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
            rollouts = await session.rollouts(tasks, step=(self._round + 1) * STRIDE - 1, metadata=STREAM)
            await session.experience(rollouts, step=self._round)
        seen = 0
        while (rule.traffic is Traffic.LIVE and seen < rule.every_rollouts) or time.monotonic() < until:
            session.raise_if_stopped()
            session.meter.check_time()
            done = await session.store.rollouts.completions(after=self._cursor, wait_s=_POLL_S, limit=1_000)
            self._cursor = done[-1].cursor if done else self._cursor
            ended = [one.rollout for one in done if one.rollout.run_id != session.run.id]
            seen += len(await self._live.among(ended))

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
        enough = compared.n >= self._rule.canary_rollouts
        if enough and self._accepts(compared, judged_before=bool(self._session.val)):
            await self._move(canary, ResourceState.LIVE, why=f"live: {compared}")
            self._watched = ""
            return None
        if compared.verdict is not Verdict.WORSE and len(mine) < _PATIENCE * self._rule.canary_rollouts:
            return canary
        await self._take_back(canary, live, why=f"taken back: {compared}")
        return None

    def _accepts(self, compared: Comparison, *, judged_before: bool) -> bool:
        """A gain need be shown once: what has shown it on held-out tasks must only not lose on traffic."""
        if compared.verdict is Verdict.WORSE or not compared.n:
            return False
        return judged_before or self._rule.accept is Accept.NO_LOSS or compared.verdict is Verdict.BETTER

    async def _watch(self, live: ResourceSet | None) -> None:
        """Takes back what has become live, if its traffic is worse than that of the set before it."""
        if live is None or live.parent is None or live.id == self._watched:
            return
        before = await self._session.store.resources.get(live.parent)
        if self._weights.lost(before):
            return
        found = await traffic(self._session.store, since=before.created_at)
        mine, theirs = found.get(live.id, []), found.get(before.id, [])
        if min(len(mine), len(theirs)) < self._rule.canary_rollouts:
            return
        compared = by_traffic(mine, theirs)
        if not compared.fails_more and compared.n < self._rule.canary_rollouts:
            return
        self._watched = live.id
        if compared.verdict is Verdict.WORSE:
            await self._take_back(live, before, why=f"taken back: {compared}")

    async def _learn(self) -> None:
        """One round of the algorithm; what it proposes is judged on the held-out tasks."""
        session = self._session
        live = await session.store.resources.live()
        before = await self._judged(live)
        self._begun = session.engine.version if session.engine else 0
        context = self._context = RoundContext(
            self.checkpoint,
            session,
            number=self._round,
            logged=self._logged,
            state=self._inner,
            proposed=await session.store.resources.get(self._proposed) if self._proposed else None,
        )
        held, self._weights.held = self._weights.held, ""
        await self._algorithm.fit(context)
        self._logged = self._reached = context.logged
        proposed = context.proposed
        if session.learner is not None and self._has_trained():
            proposed = await self._weights.propose(proposed or live, step=self._round)
        else:
            self._weights.held = held
        if proposed is None:
            await session.event("continuous", f"round {self._round}: nothing was proposed")
            return
        await self._admit(proposed, live, before)

    async def _admit(self, proposed: ResourceSet, live: ResourceSet | None, before: Outcomes | None) -> None:
        weight = 1.0 if self._weights.among(proposed) else self._rule.canary
        why = "canary: there are no held-out tasks"
        if before is not None:
            compared = by_tasks(await self._evaluated(proposed), before)
            if not self._accepts(compared, judged_before=False):
                await self._take_back(proposed, live, why=f"turned down: {compared}")
                return
            why = f"{'canary' if self._rule.canary else 'live'}: {compared}"
        state = ResourceState.CANARY if self._rule.canary else ResourceState.LIVE
        await self._move(proposed, state, weight=weight if self._rule.canary else 0.0, why=why)

    async def _judged(self, live: ResourceSet | None) -> Outcomes | None:
        """What the live set does on the held-out tasks, if there are any; asked once."""
        if not self._session.val:
            return None
        name = live.id if live else None
        return self._outcomes[name] if name in self._outcomes else await self._evaluated(live)

    async def _evaluated(self, chosen: ResourceSet | None) -> Outcomes:
        label = f"set {chosen.version}" if chosen else "no set"
        report = await self._session.evaluate(label=label, step=self._round, resources=chosen)
        if report.n:  # else it says something about the judge or the tasks: it is asked again
            self._outcomes[chosen.id if chosen else None] = report.outcomes
        return report.outcomes

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
        if live is not None and self._weights.among(chosen):
            await self._weights.load(live)

    async def _newest(self, state: ResourceState) -> ResourceSet | None:
        """The newest set in a state, however many others were published since."""
        limit = _LISTED
        while True:
            sets = await self._session.store.resources.list(limit=limit)
            found = next((one for one in sets if one.state is state), None)
            if found is not None or len(sets) < limit:
                return found
            limit *= 10

    async def _take_up_weights(self) -> None:
        """The learner gets the weights that the store says are served; at the very first, the store gets them.

        They are other weights than the learner has where somebody else has made a set live.
        """
        session = self._session
        if session.learner is None or session.engine is None or self._inner:
            return
        canary, live = await self._newest(ResourceState.CANARY), await session.store.resources.live()
        served = next((one for one in (canary, live) if one is not None and self._weights.among(one)), None)
        if served is not None:
            await self._weights.load(served)
        elif not session.state and not self._round:
            first = await self._weights.propose(live, step=self._round)
            await self._move(first, ResourceState.LIVE, why="live: the weights that the run began with")

    async def _served(self) -> list[ResourceSet]:
        """The live set and the canary, as far as there are any."""
        found = (await self._session.store.resources.live(), await self._newest(ResourceState.CANARY))
        return [one for one in found if one is not None]


def _outcomes(saved: Json) -> dict[str | None, Outcomes]:
    """What was live at a checkpoint, and what it did on the held-out tasks."""
    if not isinstance(saved, Mapping) or not isinstance(values := saved["values"], list):
        return {}
    name = saved["set"]
    return {
        None if name is None else str(name): tuple(None if one is None else float(str(one)) for one in values)
    }
