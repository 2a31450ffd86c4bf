"""Stage `group`: trajectories of one task side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from agentlightning.config import decode_params
from agentlightning.types import Experience, Group, Json, Trajectory


class GroupParams(msgspec.Struct, frozen=True, kw_only=True):
    """The stage has no parameters."""


class GroupByTask:
    """Groups trajectories by their rollout's group; a rollout without one is a group of its own.

    Groups are in order of first appearance, trajectories in order of sample.
    """

    name = "group"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, GroupParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        members: dict[str, list[Trajectory]] = {}
        for trajectory in experience.trajectories:
            members.setdefault(trajectory.rollout.group or trajectory.rollout.id, []).append(trajectory)
        groups = tuple(
            Group(key=key, trajectories=tuple(sorted(group, key=lambda each: each.rollout.sample)))
            for key, group in members.items()
        )
        return replace(experience, groups=groups)
