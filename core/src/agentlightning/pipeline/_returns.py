"""Credit from the trajectory alone: outcome, discounted outcome, return to go, signals to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from agentlightning.pipeline._credit_rule import CreditRule, Share
from agentlightning.pipeline._lineage import decision_key
from agentlightning.types import Experience, Trajectory, Transition


def outcome(experience: Experience, _: CreditRule, /) -> list[Share]:
    """Every decision is given the whole outcome."""
    return [
        Share(total=total, credits=(total,) * len(trajectory.transitions))
        for trajectory in experience.trajectories
        for total in (trajectory.outcome or 0.0,)
    ]


def discounted(experience: Experience, rule: CreditRule, /) -> list[Share]:
    """`discount^(K-k) R` at step `k` of `K` (AReaL's turn discount)."""
    return [_discounted(trajectory, rule.discount) for trajectory in experience.trajectories]


def _discounted(trajectory: Trajectory, discount: float) -> Share:
    total = trajectory.outcome or 0.0
    sizes = [len(step) for step in steps(trajectory)]
    shares = [discount ** (len(sizes) - 1 - k) * total for k, size in enumerate(sizes) for _ in range(size)]
    return Share(total=total, credits=tuple(shares))


def per_step(experience: Experience, rule: CreditRule, /) -> list[Share]:
    """`G_k`: what was earned from step `k` on, the outcome with the last step, discounted by distance."""
    return [_per_step(trajectory, rule.discount) for trajectory in experience.trajectories]


def _per_step(trajectory: Trajectory, discount: float) -> Share:
    to_go = returns_to_go(rewards_of(trajectory), discount)
    total = to_go[0] if to_go else trajectory.outcome or 0.0
    return Share(total=total, credits=tuple(over_transitions(trajectory, to_go)))


def signals(experience: Experience, rule: CreditRule, /) -> list[Share]:
    """`R` plus the return to go over signals alone."""
    return [_signals(trajectory, rule.discount) for trajectory in experience.trajectories]


def _signals(trajectory: Trajectory, discount: float) -> Share:
    total = trajectory.outcome or 0.0
    found = [sum(step[0].signals.values()) for step in steps(trajectory)]
    to_go = [total + ahead for ahead in returns_to_go(found, discount)]
    return Share(
        total=to_go[0] if to_go else total,
        credits=tuple(over_transitions(trajectory, to_go)),
    )


def earned(transition: Transition) -> float | None:
    """Reward and signals of a decision; None if it has neither."""
    if transition.reward is None and not transition.signals:
        return None
    return (transition.reward or 0.0) + sum(transition.signals.values())


def steps(trajectory: Trajectory) -> list[list[Transition]]:
    """The transitions by step in time: several answers to one call are one step, with the same rewards."""
    return [list(choices) for _, choices in groupby(trajectory.transitions, key=decision_key)]


def rewards_of(trajectory: Trajectory) -> list[float]:
    """What each step earned; a step that nobody rewarded adds nothing, the outcome comes with the last step."""
    found = [earned(step[0]) or 0.0 for step in steps(trajectory)]
    if found and trajectory.outcome is not None:
        found[-1] += trajectory.outcome
    return found


def returns_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """`G_k`, the sum over `l >= k` of `discount^(l-k) r_l` (Sutton and Barto 2018, equation 3.8)."""
    to_go = [0.0] * len(rewards)
    ahead = 0.0
    for k in range(len(rewards) - 1, -1, -1):
        to_go[k] = ahead = rewards[k] + discount * ahead
    return to_go


def over_transitions(trajectory: Trajectory, values: Sequence[float]) -> list[float]:
    """Values of steps as values of transitions."""
    pairs = zip(steps(trajectory), values, strict=True)
    return [value for step, value in pairs for _ in step]


def by_task(
    experience: Experience, key: Callable[[Trajectory], str]
) -> dict[str, list[tuple[int, Trajectory]]]:
    """Places and trajectories of each group."""
    groups: dict[str, list[tuple[int, Trajectory]]] = {}
    for number, trajectory in enumerate(experience.trajectories):
        groups.setdefault(key(trajectory), []).append((number, trajectory))
    return groups
