"""Credit by comparing what came after the same state in several rollouts of a task (GiGPO, arXiv 2505.10978)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence

from agentlightning.pipeline._credit_rule import CreditRule, Share
from agentlightning.pipeline._group import group_key
from agentlightning.pipeline._returns import by_task, over_transitions, returns_to_go, rewards_of, steps
from agentlightning.types import Experience, Json, Trajectory, Transition

_EPS = 1e-6
"""Added to standard deviations that are divided by."""


def group_by_state(experience: Experience, rule: CreditRule, /) -> list[Share]:
    """`R_i + w A^S_ik`, so that the group's mean return taken from it leaves GiGPO's advantage (equation 9).

    `A^S_ik` is `G_ik` less the mean of `G` over all visits of the group to the same anchor state (equations 6 to 8),
    0 for a state that was visited once. `R_i` is what the rollout earned in all, undiscounted.
    """
    shares: dict[int, Share] = {}
    for group in by_task(experience, group_key).values():
        shares |= _group(group, rule)
    return [shares[number] for number in range(len(experience.trajectories))]


def _group(group: Sequence[tuple[int, Trajectory]], rule: CreditRule) -> dict[int, Share]:
    visits: dict[str, list[float]] = {}
    anchors: list[list[str]] = []
    to_go: list[list[float]] = []
    totals: list[float] = []
    for _, trajectory in group:
        rewards = rewards_of(trajectory)
        to_go.append(returns_to_go(rewards, rule.discount))
        anchors.append([anchor_of(step[0], rule.anchor) for step in steps(trajectory)])
        totals.append(sum(rewards) if rewards else trajectory.outcome or 0.0)
        for anchor, value in zip(anchors[-1], to_go[-1], strict=True):
            visits.setdefault(anchor, []).append(value)
    spread = statistics.stdev(totals) + _EPS if len(totals) > 1 else 1.0
    better = {
        anchor: _Visits(found, spread if rule.scale == "std" else 0.0) for anchor, found in visits.items()
    }
    shares = {}
    for place, (number, trajectory) in enumerate(group):
        at_steps = [
            totals[place] + rule.step_weight * better[anchor].advantage(value)
            for anchor, value in zip(anchors[place], to_go[place], strict=True)
        ]
        credited = tuple(over_transitions(trajectory, at_steps))
        shares[number] = Share(total=totals[place], credits=credited)
    return shares


class _Visits:
    """What came after one state, each time that it was visited.

    Args:
        returns: Return to go of each visit.
        scale: Standard deviation to which theirs is brought; 0 leaves it.
    """

    def __init__(self, returns: Sequence[float], scale: float) -> None:
        self._alone = len(returns) == 1
        self._mean = statistics.fmean(returns)
        self._factor = scale / (statistics.stdev(returns) + _EPS) if scale and not self._alone else 1.0

    def advantage(self, value: float) -> float:
        """By how much a visit was better than the mean; 0 if there was only one."""
        return 0.0 if self._alone else (value - self._mean) * self._factor


def anchor_of(transition: Transition, anchor: str) -> str:
    """What two decisions have in common if they were made in the same state; see `CreditRule.anchor`."""
    state: Json = transition.state
    if anchor == "location":
        state = None
    elif anchor == "emitted" and isinstance(state, Mapping):
        known = ("emitted",) if "emitted" in state else ("messages", "options")
        state = {name: state[name] for name in known if name in state}
    return json.dumps([transition.agent, transition.location, state], sort_keys=True, default=repr)
