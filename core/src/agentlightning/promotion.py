"""Whether a resource set is better than the one that is live, by tasks that both did or by the traffic of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from statistics import fmean, variance
from typing import Final

import msgspec

from agentlightning.errors import NotFound
from agentlightning.pipeline import OutcomeRule
from agentlightning.statistics import bootstrap_interval
from agentlightning.store import RolloutQuery, Store
from agentlightning.types import FailureClass, Mode, Reward, Rollout, RolloutStatus, RunKind

__all__ = ["STREAM", "Comparison", "LiveRollouts", "Verdict", "by_tasks", "by_traffic", "traffic"]

STREAM: Final = {"traffic": "stream"}
"""Metadata of rollouts that a run plays in order to judge what is served, and not to learn from them."""
_Z95 = 1.959963984540054
_PAGE = 500
_OF_AGENT: Final = frozenset({FailureClass.AGENT_ERROR, FailureClass.TIMED_OUT})


class Verdict(StrEnum):
    """What an interval of 95 % around a difference says."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate against what is live.

    Attributes:
        difference: Mean outcome of the candidate less that of the live set.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Outcomes of the candidate that were compared.
        fails_more: Whether the share of rollouts without an outcome is beyond its interval above that of the live set.
            What failed has no place in the difference, so nobody may gain by failing where it is hard.
    """

    difference: float
    low: float
    high: float
    n: int
    fails_more: bool = False

    @property
    def verdict(self) -> Verdict:
        """Better or worse only where the whole interval is; what fails more often is worse."""
        if self.fails_more:
            return Verdict.WORSE
        if not self.n:
            return Verdict.UNDECIDED
        if self.low > 0:
            return Verdict.BETTER
        return Verdict.WORSE if self.high < 0 else Verdict.UNDECIDED

    def __str__(self) -> str:
        interval = f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}] on {self.n}"
        text = interval if self.n else "nothing to compare"
        return f"{text}, and it fails more often" if self.fails_more else text


def by_tasks(candidate: Sequence[float | None], live: Sequence[float | None]) -> Comparison:
    """Compares outcomes of the same tasks in the same order: bootstrap over the tasks that both have.

    Args:
        candidate: Outcome of each task; None where the agent failed.
        live: Likewise.

    Raises:
        ValueError: The lengths differ.
    """
    pairs = list(zip(candidate, live, strict=True))
    answered = [float(mine is not None) - float(theirs is not None) for mine, theirs in pairs]
    fails_more = len(answered) > 1 and bootstrap_interval(answered)[1] < 0
    differences = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    if not differences:
        return Comparison(difference=0.0, low=-math.inf, high=math.inf, n=0, fails_more=fails_more)
    low, high = bootstrap_interval(differences)
    return Comparison(
        difference=fmean(differences), low=low, high=high, n=len(differences), fails_more=fails_more
    )


def by_traffic(candidate: Sequence[float | None], live: Sequence[float | None]) -> Comparison:
    """Compares outcomes of different tasks: Welch's interval, with the normal quantile.

    With fewer than two outcomes on either side nothing can be said.

    Args:
        candidate: Outcome of each rollout; None where the agent failed.
        live: Likewise.
    """
    mine, theirs = ([one for one in side if one is not None] for side in (candidate, live))
    answered = ([float(one is not None) for one in side] for side in (candidate, live))
    _, _, fewer = _welch(*answered)
    difference, low, high = _welch(mine, theirs)
    return Comparison(difference=difference, low=low, high=high, n=len(mine), fails_more=fewer < 0)


def _welch(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Difference of the means with its 95 % interval, which is without end where nothing can be said."""
    if min(len(mine), len(theirs)) < 2:
        return 0.0, -math.inf, math.inf
    difference = fmean(mine) - fmean(theirs)
    spread = _Z95 * math.sqrt(variance(mine) / len(mine) + variance(theirs) / len(theirs))
    return difference, difference - spread, difference + spread


class LiveRollouts:
    """Tells the agents' own traffic from what runs play in order to learn or to evaluate.

    A run's learner plays with weights that are under way, and its optimiser the candidates that it has yet to choose
    from: neither says what the set is worth that is served. What no run of the store has asked for is live, and the
    stream of a run that learns continuously.

    Args:
        store: Which runs it has.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of_jobs: dict[str, bool] = {}

    async def among(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Those that are live, in their order."""
        played = [one for one in rollouts if one.mode is Mode.TRAIN]
        streamed = {one.id for one in played if STREAM.items() <= one.metadata.items()}
        runs = {one.run_id for one in played if one.run_id is not None and one.id not in streamed}
        jobs = {run_id for run_id in runs if await self._is_job(run_id)}
        return [one for one in played if one.id in streamed or one.run_id not in jobs]

    async def _is_job(self, run_id: str) -> bool:
        """Whether rollouts belong to a run that trains or evaluates; agents may put theirs under any name."""
        if run_id not in self._of_jobs:
            try:
                run = await self._store.runs.get(run_id)
            except NotFound:
                return False
            self._of_jobs[run_id] = run.kind is not RunKind.OBSERVE
        return self._of_jobs[run_id]


async def traffic(
    store: Store, *, since: float, outcome: OutcomeRule | None = None
) -> Mapping[str | None, list[float | None]]:
    """Outcomes of the live rollouts that were created since, by the resource set that they were given.

    A rollout that failed by the agent has None; one that was lost, or that nobody has judged, is none of them.

    One that was played twice, because its run was killed and went on, counts once.

    Args:
        store: Whose rollouts; see `LiveRollouts`.
        since: Seconds since the epoch, by the store's clock.
        outcome: How several rewards of a rollout become one.
    """
    rule = outcome or OutcomeRule()
    query = RolloutQuery(
        mode=Mode.TRAIN, statuses=(RolloutStatus.SUCCEEDED, RolloutStatus.FAILED), newest_first=True
    )
    live = LiveRollouts(store)
    found: dict[str | None, list[float | None]] = {}
    counted: set[tuple[str | None, str, int, int]] = set()
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(query, limit=_PAGE, cursor=cursor)
        recent = [one for one in page.items if one.created_at >= since]
        judged = {one.id: one for one in await live.among(recent)}
        rewards: dict[str, list[Reward]] = {}
        for reward in await store.spans.rewards(list(judged)) if judged else ():
            if reward.target is None:
                rewards.setdefault(reward.rollout_id, []).append(reward)
        for played in judged.values():
            own = rewards.get(played.id, [])
            if not own and not _failed(played):
                continue
            if played.group is not None and played.seed is not None:
                known = (played.resources, played.group, played.sample, played.seed)
                if known in counted:
                    continue
                counted.add(known)
            scored = rule.scalar(rule.by_dimension(own)) if own else None
            found.setdefault(played.resources, []).append(scored)
        cursor = page.cursor
        if cursor is None or len(recent) < len(page.items):
            return found


def _failed(played: Rollout) -> bool:
    """Whether the agent failed, rather than what is around it."""
    return played.failure is not None and played.failure.kind in _OF_AGENT
