"""Whether a resource set is better than the one that is live, by tasks that both did or by the traffic of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from statistics import fmean, variance

import msgspec

from agentlightning.pipeline import OutcomeRule
from agentlightning.statistics import bootstrap_interval
from agentlightning.store import RolloutQuery, Store
from agentlightning.types import Mode, Reward, RolloutStatus

__all__ = ["Comparison", "Verdict", "by_tasks", "by_traffic", "traffic"]

_Z95 = 1.959963984540054
_PAGE = 500


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
    """

    difference: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> Verdict:
        """Better or worse only where the whole interval is."""
        if not self.n:
            return Verdict.UNDECIDED
        if self.low > 0:
            return Verdict.BETTER
        return Verdict.WORSE if self.high < 0 else Verdict.UNDECIDED

    def __str__(self) -> str:
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}] on {self.n}"


def by_tasks(candidate: Sequence[float | None], live: Sequence[float | None]) -> Comparison:
    """Compares outcomes of the same tasks in the same order: bootstrap over the tasks that both have.

    Raises:
        ValueError: The lengths differ.
    """
    pairs = zip(candidate, live, strict=True)
    differences = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    if not differences:
        return Comparison(difference=0.0, low=-math.inf, high=math.inf, n=0)
    low, high = bootstrap_interval(differences)
    return Comparison(difference=fmean(differences), low=low, high=high, n=len(differences))


def by_traffic(candidate: Sequence[float], live: Sequence[float]) -> Comparison:
    """Compares outcomes of different tasks: Welch's interval, with the normal quantile.

    With fewer than two outcomes on either side nothing can be said.
    """
    if min(len(candidate), len(live)) < 2:
        return Comparison(difference=0.0, low=-math.inf, high=math.inf, n=len(candidate))
    difference = fmean(candidate) - fmean(live)
    spread = _Z95 * math.sqrt(variance(candidate) / len(candidate) + variance(live) / len(live))
    return Comparison(
        difference=difference, low=difference - spread, high=difference + spread, n=len(candidate)
    )


async def traffic(
    store: Store, *, since: float, outcome: OutcomeRule | None = None
) -> Mapping[str | None, list[float]]:
    """Outcomes of the training rollouts that were created since, by the resource set that they were given.

    One that was played twice, because its run was killed and went on, counts once.

    Args:
        store: Whose rollouts, of all runs and of none.
        since: Seconds since the epoch, by the store's clock.
        outcome: How several rewards of a rollout become one.
    """
    rule = outcome or OutcomeRule()
    query = RolloutQuery(
        mode=Mode.TRAIN, statuses=(RolloutStatus.SUCCEEDED, RolloutStatus.FAILED), newest_first=True
    )
    found: dict[str | None, list[float]] = {}
    counted: set[tuple[str | None, str, int, int]] = set()
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(query, limit=_PAGE, cursor=cursor)
        recent = {one.id: one for one in page.items if one.created_at >= since}
        rewards: dict[str, list[Reward]] = {}
        for reward in await store.spans.rewards(list(recent)) if recent else ():
            if reward.target is None:
                rewards.setdefault(reward.rollout_id, []).append(reward)
        for name, own in rewards.items():
            played = recent[name]
            if played.group is not None and played.seed is not None:
                known = (played.resources, played.group, played.sample, played.seed)
                if known in counted:
                    continue
                counted.add(known)
            found.setdefault(played.resources, []).append(rule.scalar(rule.by_dimension(own)))
        cursor = page.cursor
        if cursor is None or len(recent) < len(page.items):
            return found
