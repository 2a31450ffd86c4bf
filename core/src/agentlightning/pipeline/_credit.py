"""Stage `credit`: how much of the return each decision is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

import msgspec

from agentlightning.config import decode_params
from agentlightning.types import Drop, Experience, Json, Trajectory


class CreditMode(StrEnum):
    """How the return is spread over the decisions of a trajectory."""

    OUTCOME = "outcome"


class CreditParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage.

    Attributes:
        mode: `outcome`: each decision is given the whole outcome.
    """

    mode: CreditMode = CreditMode.OUTCOME


class Credit:
    """Gives each decision its share of the return (paper 2508.03680, the credit assignment module).

    A trajectory that has no outcome, only rewards for single decisions, is left out.
    """

    name = "credit"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._params = decode_params(params, CreditParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        mode = self._params.mode
        drops = tuple(
            Drop(id=trajectory.attempt.id, reason=f"no outcome, which credit mode {mode.value!r} spreads")
            for trajectory in experience.trajectories
            if trajectory.outcome is None
        )
        kept = tuple(
            _identical(trajectory) for trajectory in experience.trajectories if trajectory.outcome is not None
        )
        return replace(experience, trajectories=kept, drops=(*experience.drops, *drops))


def _identical(trajectory: Trajectory) -> Trajectory:
    transitions = tuple(
        msgspec.structs.replace(transition, credit=trajectory.outcome)
        for transition in trajectory.transitions
    )
    return msgspec.structs.replace(trajectory, transitions=transitions)
