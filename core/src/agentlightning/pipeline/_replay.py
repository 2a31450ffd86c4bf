"""Stage `replay`: draws some groups of what there is; one seed draws the same, in whatever order they came."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from agentlightning.config import decode_params
from agentlightning.errors import ConfigError
from agentlightning.pipeline._group import leaving_out
from agentlightning.replay import Candidate, Measure, Prioritised, Recent, Strategy, Uniform, draw
from agentlightning.types import Experience, Group, Json


class ReplayParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage.

    Attributes:
        groups: How many groups to draw; None takes all.
        strategy: `uniform`; `recent`: those that finished last; `spread`: the likelier, the more the outcomes of a
            group differ.
        alpha: How much the spread counts, 0 being uniform (`spread`).
        seed: Of everything random in it.
    """

    groups: Annotated[int, msgspec.Meta(ge=0)] | None = None
    strategy: Literal["uniform", "recent", "spread"] = "uniform"
    alpha: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    seed: int = 0


class Replay:
    """Keeps the groups that were drawn, whole and in their order; see `agentlightning.replay` for what is drawn."""

    name = "replay"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._params = decode_params(params, ReplayParams, where=f"stage {self.name!r}")
        if self._params.alpha is not None and self._params.strategy != "spread":
            raise ConfigError(
                f"stage {self.name!r}: strategy {self._params.strategy!r} does not use 'alpha'; used by 'spread'"
            )

    def __call__(self, experience: Experience) -> Experience:
        count = self._params.groups
        if count is None or count >= len(experience.groups):
            return experience
        drawn = draw(
            map(_candidate, experience.groups), self._strategy(), count=count, seed=self._params.seed
        )
        keys = {one.candidate.id for one in drawn}
        return leaving_out(
            experience, {group.key: "not drawn" for group in experience.groups if group.key not in keys}
        )

    def _strategy(self) -> Strategy:
        match self._params.strategy:
            case "uniform":
                return Uniform()
            case "recent":
                return Recent()
            case "spread":
                alpha = self._params.alpha
                return Prioritised(by=Measure.REWARD, alpha=0.6 if alpha is None else alpha)


def _candidate(group: Group) -> Candidate:
    outcomes = [one.outcome for one in group.trajectories if one.outcome is not None]
    return Candidate(
        id=group.key,
        group=group.key,
        reward=statistics.pstdev(outcomes) if outcomes else 0.0,
        finished_at=max((one.rollout.finished_at or 0.0 for one in group.trajectories), default=0.0),
    )
