"""Stage `validate`: rewards that are missing, not finite or out of their declared range do not train anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import msgspec

from agentlightning.config import decode_params
from agentlightning.errors import ConfigError
from agentlightning.types import Drop, Experience, Json, Remark, Trajectory

Range = tuple[float, float]
"""Least and greatest value, both allowed."""


class ValidateParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage.

    Attributes:
        ranges: Least and greatest value of each dimension of the outcome; a dimension that is not named may have any.
        outcome: Least and greatest outcome, after dimensions became one number; None is any.
        decision: Least and greatest reward of a single decision; None is any.
        missing: `drop` leaves out a trajectory for which there is no reward at all; `keep` remarks on it.
        all_equal: What becomes of a batch whose outcomes are all the same: `keep` remarks on it; `drop` leaves all of
            it out, for a reward that is the same for everything is likely broken.
    """

    ranges: dict[str, Range] = {}
    outcome: Range | None = None
    decision: Range | None = None
    missing: Literal["drop", "keep"] = "drop"
    all_equal: Literal["keep", "drop"] = "keep"


class Validate:
    """Leaves out trajectories whose rewards cannot be true, whole and with the reason; no value is ever mended to 0.

    Failed attempts are not judged here: the stage `rewards` leaves them out or gives them the outcome that its
    parameter `failures` states.
    """

    name = "validate"

    def __init__(self, params: Mapping[str, Json]) -> None:
        where = f"stage {self.name!r}"
        self._params = decode_params(params, ValidateParams, where=where)
        bounds = [
            *self._params.ranges.items(),
            ("outcome", self._params.outcome),
            ("decision", self._params.decision),
        ]
        for name, bound in bounds:
            if bound is not None and not bound[0] <= bound[1]:
                raise ConfigError(f"{where}: the range of {name!r} is [least, greatest], got {list(bound)!r}")

    def __call__(self, experience: Experience) -> Experience:
        drops: list[Drop] = []
        remarks: list[Remark] = []
        kept = []
        for trajectory in experience.trajectories:
            reason = next(self._wrong(trajectory), "")
            missing = not reason and _has_no_reward(trajectory)
            if reason or (missing and self._params.missing == "drop"):
                drops.append(Drop(id=trajectory.attempt.id, reason=reason or "no reward"))
                continue
            if missing:
                remarks.append(Remark(id=trajectory.attempt.id, reason="no reward"))
            kept.append(trajectory)
        if reason := _all_equal(kept):
            if self._params.all_equal == "drop":
                drops += [Drop(id=one.attempt.id, reason=reason) for one in kept]
                kept = []
            else:
                remarks += [Remark(id=one.attempt.id, reason=reason) for one in kept]
        return replace(
            experience,
            trajectories=tuple(kept),
            drops=(*experience.drops, *drops),
            remarks=(*experience.remarks, *remarks),
        )

    def _wrong(self, trajectory: Trajectory) -> Iterator[str]:
        """What is wrong with a trajectory's rewards."""
        params = self._params
        for name, value in trajectory.outcomes.items():
            yield from _off(value, params.ranges.get(name), what=f"the outcome in dimension {name!r}")
        if trajectory.outcome is not None:
            yield from _off(trajectory.outcome, params.outcome, what="the outcome")
        for transition in trajectory.transitions:
            if transition.reward is not None:
                yield from _off(transition.reward, params.decision, what="the reward of a decision")


def _off(value: float, allowed: Range | None, *, what: str) -> Iterator[str]:
    if not math.isfinite(value):
        yield f"{what} is not finite: {value!r}"
    elif allowed is not None and not allowed[0] <= value <= allowed[1]:
        yield f"{what} is out of its range {list(allowed)!r}"


def _has_no_reward(trajectory: Trajectory) -> bool:
    return trajectory.outcome is None and all(
        transition.reward is None and not transition.signals for transition in trajectory.transitions
    )


def _all_equal(trajectories: list[Trajectory]) -> str:
    """What to say if nothing distinguishes several trajectories; empty otherwise."""
    outcomes = {trajectory.outcome for trajectory in trajectories}
    told_apart = any(
        transition.reward is not None or transition.signals
        for trajectory in trajectories
        for transition in trajectory.transitions
    )
    if len(trajectories) < 2 or len(outcomes) > 1 or told_apart:
        return ""
    return "all outcomes of the batch are equal"
