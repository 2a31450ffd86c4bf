"""Credit by what a team earns without one of its agents."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from agentlightning.pipeline._credit_rule import CreditRule, Share
from agentlightning.pipeline._group import group_key
from agentlightning.pipeline._lineage import DECISIVE, Lineage
from agentlightning.pipeline._returns import by_task
from agentlightning.types import Experience, Span, Trajectory


def leave_one_out(experience: Experience, _: CreditRule, /) -> list[Share]:
    """`mean(R) + R_i - mean of R over rollouts of the group without the agent`.

    The difference reward of Wolpert and Tumer (2002), its counterfactual estimated from those rollouts of the task in
    which the agent decided nothing; the group's mean puts it on the scale of returns, so that taking that mean off
    leaves the difference. An agent that was part of every rollout has no counterfactual: its decisions are given `R`,
    and that is remarked on.
    """
    present = {episode.attempt.id: frozenset(_deciders(episode.spans)) for episode in experience.episodes}
    shares: dict[int, Share] = {}
    for group in by_task(experience, group_key).values():
        shares |= _group(group, present)
    return [shares[number] for number in range(len(experience.trajectories))]


def _group(
    group: Sequence[tuple[int, Trajectory]], present: Mapping[str, frozenset[str]]
) -> dict[int, Share]:
    returns = [trajectory.outcome or 0.0 for _, trajectory in group]
    mean = statistics.fmean(returns)
    took_part = [_agents(trajectory, present) for _, trajectory in group]
    without: dict[str, float] = {}
    for agent in frozenset().union(*took_part):
        others = [value for value, agents in zip(returns, took_part, strict=True) if agent not in agents]
        if others:
            without[agent] = statistics.fmean(others)
    return {
        number: _share(trajectory, total, mean=mean, without=without)
        for (number, trajectory), total in zip(group, returns, strict=True)
    }


def _share(trajectory: Trajectory, total: float, *, mean: float, without: Mapping[str, float]) -> Share:
    always = {one.agent for one in trajectory.transitions if one.agent not in without}
    return Share(
        total=total,
        credits=tuple(
            mean + total - without[one.agent] if one.agent in without else total
            for one in trajectory.transitions
        ),
        remarks=tuple(f"no rollout of the group went without agent {agent!r}" for agent in sorted(always)),
    )


def _agents(trajectory: Trajectory, present: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Who took part, also with decisions that are left out, such as incomplete calls."""
    here = frozenset(one.agent for one in trajectory.transitions)
    return here | present.get(trajectory.attempt.id, frozenset())


def _deciders(spans: Sequence[Span]) -> Iterator[str]:
    lineage = Lineage(spans)
    return (lineage.agent(span) for span in spans if span.operation in DECISIVE)
