"""How credit is spread: the rule that configurations state, and the contract of the functions that follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, Protocol, TypeAlias

import msgspec

from agentlightning.types import Experience, Json

Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class CreditMode(StrEnum):
    """How the return is spread over the decisions of a trajectory.

    `R` is the outcome, `r_k` what was earned by step `k` of `K` (its reward and signals; the outcome comes with the
    last step), `G_k` the sum of `discount^(l-k) r_l` over `l >= k`.

    Attributes:
        OUTCOME: Each decision is given `R`.
        DISCOUNTED: `discount^(K-k) R`: the last decision is given all of it.
        PER_STEP: `G_k`, the return to go.
        SIGNALS: `R` and the return to go over signals alone.
        GROUP_BY_STATE: `R` and by how much `G_k` exceeds the mean over the group's visits to the same state (GiGPO).
        LEAVE_ONE_OUT: `R` compared with the group's rollouts in which the agent had no part.
        CRITIC: The return to go as a learned value of later states sees it; fills `Transition.value` too.
    """

    OUTCOME = "outcome"
    DISCOUNTED = "discounted"
    PER_STEP = "per_step"
    SIGNALS = "signals"
    GROUP_BY_STATE = "group_by_state"
    LEAVE_ONE_OUT = "leave_one_out"
    CRITIC = "critic"


class CreditRule(msgspec.Struct, frozen=True, kw_only=True):
    """How the decisions of all agents, or of one, are given credit. What a mode does not use is refused.

    Attributes:
        mode: A `CreditMode`, or `module:function` of a `PluginCredit`.
        discount: Factor per step, from 0 to 1.
        step_weight: Weight of the comparison between visits to one state (`group_by_state`).
        scale: `none` leaves that comparison in units of the return, for advantages that only subtract a mean; `std`
            divides it by the standard deviation of the visits and multiplies by that of the group's returns, for
            advantages that divide by the latter (`group_by_state`).
        anchor: What makes two states the same, beside agent and location: `emitted` state, else messages and options;
            or all of `state`; or `location` alone (`group_by_state`).
        trace: Lambda of the return to go: 1 is what was earned, 0 what the critic expects of the next state (`critic`).
        ridge: Weight of the squared norm of the critic's weights (`critic`).
        features: Hashed features of a state (`critic`).
        folds: Parts of the batch; each is judged by a critic of the others (`critic`).
        params: What a `PluginCredit` is handed.
    """

    mode: str = CreditMode.OUTCOME
    discount: Fraction = 1.0
    step_weight: Annotated[float, msgspec.Meta(ge=0.0)] = 1.0
    scale: Literal["none", "std"] = "none"
    anchor: Literal["emitted", "state", "location"] = "emitted"
    trace: Fraction = 1.0
    ridge: Annotated[float, msgspec.Meta(gt=0.0)] = 1.0
    features: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 512
    folds: Annotated[int, msgspec.Meta(ge=2)] = 4
    params: dict[str, Json] = {}

    def __hash__(self) -> int:
        return hash(msgspec.json.encode(self, order="sorted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The credits of one trajectory.

    Attributes:
        total: What its credits are shares of.
        credits: One per transition.
        values: What was expected before each; empty if nobody expected anything.
        remarks: What was odd.
    """

    total: float
    credits: tuple[float, ...]
    values: tuple[float | None, ...] = ()
    remarks: tuple[str, ...] = ()


class Spread(Protocol):
    """Spreads the returns of a batch; one share per trajectory, in order."""

    def __call__(self, experience: Experience, rule: CreditRule, /) -> list[Share]:
        """Each trajectory has what the mode spreads."""
        ...


class PluginCredit(Protocol):
    """A credit mode of one's own, named by its import string."""

    def __call__(self, experience: Experience, params: Mapping[str, Json], /) -> Sequence[Sequence[float]]:
        """Returns for each of `experience.trajectories` one credit per transition, on the scale of returns."""
        ...
