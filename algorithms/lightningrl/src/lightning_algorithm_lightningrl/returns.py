"""Returns and advantages along a sequence of decisions or sampled tokens, in plain Python.

Positions that the policy did not choose, such as tool outputs, are skipped: values, returns and advantages are carried
across them, whatever stands there.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import zip_longest

WHITEN_EPS = 1e-8
"""Added to the variance, as verl does."""


def discounted_returns(
    rewards: Sequence[float], *, gamma: float, mask: Sequence[bool] | None = None
) -> list[float]:
    """R_t = r_t + gamma R_t', where t' is the next chosen position (REINFORCE++, arXiv 2501.03262; gamma is 1 there).

    Args:
        rewards: One per position.
        gamma: Discount per chosen position.
        mask: True where the policy chose; everywhere by default. Elsewhere rewards are ignored and the result is 0.
    """
    found = [0.0] * len(rewards)
    following = 0.0
    for place in reversed(range(len(rewards))):
        if mask is None or mask[place]:
            following = rewards[place] + gamma * following
            found[place] = following
    return found


def gae(
    rewards: Sequence[float],
    *,
    values: Sequence[float],
    gamma: float,
    lam: float,
    mask: Sequence[bool] | None = None,
) -> list[float]:
    """Generalised advantage estimates (arXiv 1506.02438, equation 16).

    d_t = r_t + gamma V_t' - V_t and A_t = d_t + gamma lam A_t', where t' is the next chosen position; after the last
    one V and A are 0.

    Args:
        rewards: One per position.
        values: Return that is expected before each position.
        gamma: Discount.
        lam: 1 gives return less value, 0 the one-step error.
        mask: True where the policy chose; everywhere by default. Elsewhere nothing is read and the result is 0.
    """
    found = [0.0] * len(rewards)
    next_value = next_advantage = 0.0
    for place in reversed(range(len(rewards))):
        if mask is None or mask[place]:
            error = rewards[place] + gamma * next_value - values[place]
            next_advantage = error + gamma * lam * next_advantage
            next_value = values[place]
            found[place] = next_advantage
    return found


def step_rewards(credits_: Sequence[float], *, gamma: float) -> list[float]:
    """The rewards of which credits are the returns to go: c_k - gamma c_(k+1), and the last credit itself.

    With the outcome as credit of every decision and gamma 1, that is the outcome at the end and 0 before.
    """
    return [
        credit - gamma * following for credit, following in zip_longest(credits_, credits_[1:], fillvalue=0.0)
    ]


def whiten(values: Sequence[float], *, counts: Sequence[float]) -> list[float]:
    """(x - mean) / sqrt(var + 1e-8) with the sample variance over all counts.

    Args:
        values: What to whiten.
        counts: How often each value is there, such as the tokens of a call.
    """
    total = math.fsum(counts)
    if total <= 1:
        return [0.0] * len(values)
    mean = math.fsum(value * count for value, count in zip(values, counts, strict=True)) / total
    spread = math.fsum(count * (value - mean) ** 2 for value, count in zip(values, counts, strict=True))
    scale = 1.0 / math.sqrt(spread / (total - 1.0) + WHITEN_EPS)
    return [(value - mean) * scale for value in values]


def anchored_advantages(
    rewards: Sequence[Sequence[float]],
    *,
    anchors: Sequence[Sequence[Hashable]],
    gamma: float = 0.95,
    weight: float = 1.0,
    by_deviation: bool = False,
    std_eps: float = 1e-6,
) -> list[list[float]]:
    """GiGPO (arXiv 2505.10978, equations 3 to 8): the episode's advantage plus that of the step at its anchor state.

    A = A_episode + weight A_step. A_episode compares the sum of a rollout's rewards with those of its group; A_step
    compares discounted returns to go of the steps of the group that were taken in the same state. A state met once
    gives 0; an only rollout has its return as A_episode.

    Args:
        rewards: `[rollouts][steps]` of one group.
        anchors: State of each step.
        gamma: Discount per step.
        weight: Of the step's part.
        by_deviation: Whether both parts are divided by the sample deviation; the authors' code does not.
        std_eps: Term beside the deviation.
    """
    scale = std_eps if by_deviation else None
    episodes = [math.fsum(steps) for steps in rewards]
    by_episode = _compared(episodes, eps=scale) if len(episodes) > 1 else episodes
    to_go = [discounted_returns(steps, gamma=gamma) for steps in rewards]
    places: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
    for rollout, states in enumerate(anchors):
        for step, state in enumerate(states):
            places[state].append((rollout, step))
    found = [[value] * len(steps) for value, steps in zip(by_episode, rewards, strict=True)]
    for members in places.values():
        own = _compared([to_go[rollout][step] for rollout, step in members], eps=scale)
        for (rollout, step), value in zip(members, own, strict=True):
            found[rollout][step] += weight * value
    return found


def _compared(values: Sequence[float], *, eps: float | None) -> list[float]:
    """Differences to the mean, divided by the deviation if there is an eps; 0 for a single value."""
    if len(values) < 2:
        return [0.0] * len(values)
    mean = statistics.fmean(values)
    divisor = 1.0 if eps is None else statistics.stdev(values) + eps
    return [(value - mean) / divisor for value in values]
