"""Stage `group`: trajectories of one task side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated

import msgspec

from agentlightning.config import decode_params
from agentlightning.types import Drop, Experience, Group, Json, Trajectory


class GroupParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage.

    Attributes:
        size: Trajectories of a whole group: one that has fewer is left out whole. None keeps incomplete groups as they
            are.
    """

    size: Annotated[int, msgspec.Meta(ge=1)] | None = None


class GroupByTask:
    """Groups trajectories by their rollout's group; a rollout without one is a group of its own.

    Groups are in order of first appearance, trajectories in order of sample.
    """

    name = "group"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._size = decode_params(params, GroupParams, where=f"stage {self.name!r}").size

    def __call__(self, experience: Experience) -> Experience:
        members: dict[str, list[Trajectory]] = {}
        for trajectory in experience.trajectories:
            members.setdefault(group_key(trajectory), []).append(trajectory)
        groups = tuple(
            Group(key=key, trajectories=tuple(sorted(group, key=lambda each: each.rollout.sample)))
            for key, group in members.items()
        )
        few = {
            group.key: f"its group has fewer than {self._size}" for group in groups if self._is_short(group)
        }
        return (
            leaving_out(replace(experience, groups=groups), few)
            if few
            else replace(experience, groups=groups)
        )

    def _is_short(self, group: Group) -> bool:
        return self._size is not None and len(group.trajectories) < self._size


def group_key(trajectory: Trajectory) -> str:
    """Key of the group that a trajectory belongs to."""
    return trajectory.rollout.group or trajectory.rollout.id


def leaving_out(experience: Experience, reasons: Mapping[str, str]) -> Experience:
    """Without these groups; each of their trajectories is dropped with the reason of its group.

    Args:
        reasons: By key of the group.
    """
    gone = [
        Drop(id=trajectory.attempt.id, reason=reasons[group.key])
        for group in experience.groups
        if group.key in reasons
        for trajectory in group.trajectories
    ]
    return without(experience, gone)


def without(experience: Experience, gone: Iterable[Drop]) -> Experience:
    """Without the trajectories of these attempts, among groups too; a group without any goes."""
    drops = tuple(gone)
    ids = {drop.id for drop in drops}
    kept = (
        msgspec.structs.replace(group, trajectories=_others(group.trajectories, ids))
        for group in experience.groups
    )
    return replace(
        experience,
        trajectories=_others(experience.trajectories, ids),
        groups=tuple(group for group in kept if group.trajectories),
        drops=(*experience.drops, *drops),
    )


def _others(trajectories: tuple[Trajectory, ...], ids: set[str]) -> tuple[Trajectory, ...]:
    return tuple(trajectory for trajectory in trajectories if trajectory.attempt.id not in ids)
