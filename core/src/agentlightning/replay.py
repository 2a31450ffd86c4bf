"""Replay: which past rollouts to learn from again, for offline training and for replay during training.

A strategy draws from candidates without replacement. One seed gives one result, whatever the order in which the
candidates were listed. `draw` is pure; `replay` reads a store.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, Protocol, TypeVar

import msgspec

from agentlightning._inclusion import inclusion, systematic
from agentlightning.pipeline import OutcomeRule
from agentlightning.store import RolloutQuery, Store
from agentlightning.types import Reward, Rollout, RolloutStatus

__all__ = [
    "Candidate",
    "Drawn",
    "Measure",
    "Prioritised",
    "Proportional",
    "Recent",
    "Strategy",
    "Stratified",
    "Uniform",
    "candidates",
    "draw",
    "replay",
    "shares",
]

_Value = TypeVar("_Value")

_ALL: Final = RolloutQuery()
_PAGE: Final = 1_000
_PAST: Final = (RolloutStatus.SUCCEEDED, RolloutStatus.FAILED)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout that may be drawn.

    Attributes:
        group: Rollouts of one task share it; a rollout without one is a group of its own.
        reward: Its outcome; None if nobody gave one.
        finished_at: Seconds since the epoch.
    """

    id: str
    group: str | None = None
    reward: float | None = None
    finished_at: float = 0.0


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was drawn.

    Attributes:
        probability: That a single draw picks it.
        weight: By which to multiply its loss, so that drawing some more often does not bias the expectation; the
            largest among all candidates is 1.
    """

    candidate: Candidate
    probability: float
    weight: float = 1.0


class Strategy(Protocol):
    """How to draw."""

    def draw(self, candidates: Sequence[Candidate], count: int, *, rng: random.Random) -> list[Drawn]:
        """Draws up to `count` different candidates; they are sorted by id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Each is as likely as any other."""

    def draw(self, candidates: Sequence[Candidate], count: int, *, rng: random.Random) -> list[Drawn]:
        """Draws uniformly."""
        chosen = rng.sample(candidates, min(count, len(candidates)))
        return [Drawn(candidate=one, probability=1 / len(candidates)) for one in chosen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """Those that finished last.

    Attributes:
        window: Draws uniformly from so many newest ones, as a replay buffer of that size does; None takes the
            newest ones, the newest first.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is a number of rollouts from 1 on, got {self.window!r}")

    def draw(self, candidates: Sequence[Candidate], count: int, *, rng: random.Random) -> list[Drawn]:
        """Draws from the newest; of those that finished at the same time, the greater id counts as newer."""
        newest = sorted(candidates, key=lambda one: (one.finished_at, one.id), reverse=True)
        if self.window is not None:
            return Uniform().draw(newest[: self.window], count, rng=rng)
        return [Drawn(candidate=one, probability=1 / min(count, len(newest))) for one in newest[:count]]


class Measure(StrEnum):
    """What makes a rollout worth learning from.

    Attributes:
        REWARD: How much better its reward is than the worst.
        SURPRISE: How far its reward is from the mean of its group.
    """

    REWARD = "reward"
    SURPRISE = "surprise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportional:
    """Those of a higher priority are likelier: prioritised replay, Schaul et al. 2016 (arXiv 1511.05952).

    One draw picks i with P(i) = p_i^alpha / Σ p_k^alpha (equation 1), and its weight is (1 / (N P(i)))^beta over the
    largest of all (§3.4). Several draws of the paper may pick one twice. Here each is picked once at most: it is among
    n with the probability n P(i), and what that would make more than certain goes to the others, by their priorities
    (systematic sampling from a shuffled order, Madow 1949). A candidate's share of the draws stands for P(i) in the
    weights, so that with beta = 1 the mean of weight times value estimates a multiple of the plain mean over all
    candidates without bias, however many are drawn.

    Attributes:
        priorities: By id, above 0; candidates that are not among them are never drawn.
        alpha: How much the priority counts; 0 is uniform.
        beta: How much of the bias the weights undo; 1 is all of it.
    """

    priorities: Mapping[str, float]
    alpha: float = 0.6
    beta: float = 0.4

    def __post_init__(self) -> None:
        _check_finite(alpha=self.alpha, beta=self.beta)
        wrong = {name: one for name, one in self.priorities.items() if not (math.isfinite(one) and one > 0.0)}
        if wrong:
            raise ValueError(f"a priority is a finite number above 0, got {wrong!r}")

    def draw(self, candidates: Sequence[Candidate], count: int, *, rng: random.Random) -> list[Drawn]:
        """Draws by priority, in random order."""
        known = [one for one in candidates if one.id in self.priorities]
        count = min(count, len(known))
        if not count:
            return []
        chances = inclusion([self.alpha * math.log(self.priorities[one.id]) for one in known], count)
        rarest = min(chances)
        order = rng.sample(range(len(known)), len(known))
        return [
            Drawn(
                candidate=known[index],
                probability=math.exp(chances[index] - math.log(count)),
                weight=math.exp(self.beta * (rarest - chances[index])),
            )
            for index in systematic(order, chances, count, start=rng.random())
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prioritised:
    """Those that are worth more are likelier: `Proportional` to their measure. One without a reward is never drawn.

    Attributes:
        by: The measure.
        alpha: How much the priority counts; 0 is uniform.
        beta: How much of the bias the weights undo; 1 is all of it.
        epsilon: Added to each measure, in its unit, so that all can be drawn.
    """

    by: Measure = Measure.SURPRISE
    alpha: float = 0.6
    beta: float = 0.4
    epsilon: float = 1e-2

    def __post_init__(self) -> None:
        _check_finite(alpha=self.alpha, beta=self.beta, epsilon=self.epsilon)
        if not self.epsilon:
            raise ValueError("epsilon is a finite number above 0, got 0.0")

    def draw(self, candidates: Sequence[Candidate], count: int, *, rng: random.Random) -> list[Drawn]:
        """Draws by priority."""
        judged = [one for one in candidates if one.reward is not None]
        if not judged:
            return []
        priorities = {
            one.id: value + self.epsilon for one, value in zip(judged, self._measures(judged), strict=True)
        }
        strategy = Proportional(priorities=priorities, alpha=self.alpha, beta=self.beta)
        return strategy.draw(judged, count, rng=rng)

    def _measures(self, judged: Sequence[Candidate]) -> list[float]:
        rewards = [one.reward or 0.0 for one in judged]
        if self.by is Measure.REWARD:
            worst = min(rewards)
            return [reward - worst for reward in rewards]
        means = {key: math.fsum(values) / len(values) for key, values in _by_group(judged, rewards).items()}
        return [abs(reward - means[_group(one)]) for one, reward in zip(judged, rewards, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratified:
    """So many of each group, uniformly within it.

    Attributes:
        equal: Groups get the same, as far as they have it; else in proportion to their size.
    """

    equal: bool = False

    def draw(self, candidates: Sequence[Candidate], count: int, *, rng: random.Random) -> list[Drawn]:
        """Draws from each group its share; which groups get what is left over is random."""
        groups = _by_group(candidates, candidates)
        keys = list(groups)
        rng.shuffle(keys)
        sizes = {key: len(groups[key]) for key in keys}
        count = min(count, len(candidates))
        return [
            Drawn(candidate=one, probability=share / (sizes[key] * count))
            for key, share in shares(sizes, count, equal=self.equal).items()
            for one in rng.sample(groups[key], share)
        ]


def shares(sizes: Mapping[str, int], count: int, *, equal: bool = False) -> dict[str, int]:
    """How many of each stratum, by the method of largest remainders; earlier ones first where remainders are equal.

    Args:
        sizes: By stratum; none gets more than it has.
        count: In total; all there are, if they are fewer.
        equal: The same of each, as far as it has it; else in proportion to its size.
    """
    count = min(count, sum(sizes.values()))
    if equal:
        return _equal_shares(sizes, count)
    total = max(1, sum(sizes.values()))
    found = {key: count * size // total for key, size in sizes.items()}
    remainders = {key: count * size % total for key, size in sizes.items()}
    for key in sorted(sizes, key=lambda key: -remainders[key])[: count - sum(found.values())]:
        found[key] += 1
    return found


def draw(candidates: Iterable[Candidate], strategy: Strategy, *, count: int, seed: int) -> list[Drawn]:
    """Draws up to `count` different candidates.

    Args:
        seed: Of everything random in it; the same seed draws the same from the same candidates in any order.

    Raises:
        ValueError: The count is negative, or two candidates have one id.
    """
    if count < 0:
        raise ValueError(f"count is how many rollouts to draw, 0 or more, got {count!r}")
    ordered = sorted(candidates, key=lambda one: one.id)
    for one, following in pairwise(ordered):
        if one.id == following.id:
            raise ValueError(f"two candidates have the id {one.id!r}; list each rollout once")
    if not ordered or not count:
        return []
    return strategy.draw(ordered, count, rng=random.Random(seed))


async def candidates(
    store: Store, query: RolloutQuery = _ALL, *, outcome: OutcomeRule | None = None
) -> list[Candidate]:
    """What may be drawn from a store: rollouts that succeeded or failed, unless the query names other statuses.

    Args:
        outcome: How several rewards of a rollout become one; those that are aimed at single spans do not count.
    """
    if query.statuses is None:
        query = msgspec.structs.replace(query, statuses=_PAST)
    rule = outcome or OutcomeRule()
    found: list[Candidate] = []
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(query, limit=_PAGE, cursor=cursor)
        rewards: dict[str, list[Reward]] = {}
        for reward in await store.spans.rewards([one.id for one in page.items]) if page.items else ():
            if reward.target is None:
                rewards.setdefault(reward.rollout_id, []).append(reward)
        found += [_candidate(one, rewards.get(one.id, ()), rule) for one in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


async def replay(
    store: Store,
    query: RolloutQuery = _ALL,
    *,
    strategy: Strategy,
    count: int,
    seed: int,
    outcome: OutcomeRule | None = None,
) -> list[Rollout]:
    """Draws up to `count` past rollouts from a store, in the order in which they were drawn.

    What was deleted meanwhile is left out. Whoever needs the importance weights too calls `candidates` and `draw`.

    Args:
        query: Which rollouts; those that succeeded or failed, unless it names other statuses.
        seed: Of everything random in it.
        outcome: How several rewards of a rollout become one.
    """
    drawn = draw(await candidates(store, query, outcome=outcome), strategy, count=count, seed=seed)
    ids = [one.candidate.id for one in drawn]
    rollouts: dict[str, Rollout] = {}
    for start in range(0, len(ids), _PAGE):
        some = tuple(ids[start : start + _PAGE])
        cursor: str | None = None
        while True:
            page = await store.rollouts.list(RolloutQuery(ids=some), limit=len(some), cursor=cursor)
            rollouts |= {one.id: one for one in page.items}
            cursor = page.cursor
            if cursor is None:
                break
    return [rollouts[name] for name in ids if name in rollouts]


def _candidate(rollout: Rollout, rewards: Sequence[Reward], rule: OutcomeRule) -> Candidate:
    values = rule.by_dimension(rewards)
    return Candidate(
        id=rollout.id,
        group=rollout.group,
        reward=rule.scalar(values) if values else None,
        finished_at=rollout.finished_at or 0.0,
    )


def _group(candidate: Candidate) -> str:
    # ids and groups are different names: a group may be called as a rollout is
    return f"id {candidate.id}" if candidate.group is None else f"group {candidate.group}"


def _by_group(keys: Sequence[Candidate], values: Sequence[_Value]) -> dict[str, list[_Value]]:
    groups: dict[str, list[_Value]] = {}
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(_group(key), []).append(value)
    return groups


def _equal_shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    found = dict.fromkeys(sizes, 0)
    left = count
    while left:
        open_ = [key for key in sizes if found[key] < sizes[key]]
        each = left // len(open_)
        if not each:
            for key in open_[:left]:
                found[key] += 1
            return found
        for key in open_:
            more = min(each, sizes[key] - found[key])
            found[key] += more
            left -= more
    return found


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{name} is a finite number, 0 or more, got {value!r}")
