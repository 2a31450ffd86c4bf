"""Stage `balance`: a curriculum by pass rate, so that a batch is made of what is neither too easy nor too hard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

import msgspec

from agentlightning.config import decode_params
from agentlightning.pipeline._group import leaving_out
from agentlightning.types import Experience, Group, Json

Rate: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class BalanceParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage. Without `lowest`, `highest` and `most` it leaves out nothing.

    Attributes:
        passed: Least outcome of a rollout that counts as passed.
        lowest: Least pass rate of a group.
        highest: Greatest pass rate of a group.
        target: Pass rate that is best to learn from.
        most: Most groups: those with a pass rate closest to `target`, of equally close ones those that came first.
    """

    passed: float = 0.5
    lowest: Rate = 0.0
    highest: Rate = 1.0
    target: Rate = 0.5
    most: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Balance:
    """Leaves out groups by the share of their rollouts that passed; what stays keeps its order."""

    name = "balance"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._params = decode_params(params, BalanceParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        rates = {group.key: self._pass_rate(group) for group in experience.groups}
        reasons = {key: reason for key, rate in rates.items() if (reason := self._reason(rate))}
        if (most := self._params.most) is not None:
            left = sorted(
                (abs((rate or 0.0) - self._params.target), place, key)
                for place, (key, rate) in enumerate(rates.items())
                if key not in reasons
            )
            reasons |= {key: f"{most} groups are closer to the target pass rate" for _, _, key in left[most:]}
        return leaving_out(experience, reasons) if reasons else experience

    def _pass_rate(self, group: Group) -> float | None:
        """Share of the rollouts with an outcome that passed; None if none has one."""
        outcomes = [one.outcome for one in group.trajectories if one.outcome is not None]
        passed = sum(outcome >= self._params.passed for outcome in outcomes)
        return passed / len(outcomes) if outcomes else None

    def _reason(self, rate: float | None) -> str:
        """Why a group is left out, whatever others there are; empty if it is not."""
        params = self._params
        if rate is None:
            return "no outcome, so no pass rate" if params != BalanceParams() else ""
        if rate < params.lowest:
            return f"pass rate below {params.lowest:g}"
        return f"pass rate above {params.highest:g}" if rate > params.highest else ""
