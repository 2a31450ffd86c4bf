"""Stage `credit`: how much of the return each decision is given."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, cast

import msgspec

from agentlightning.config import decode_params
from agentlightning.errors import ConfigError
from agentlightning.pipeline._anchors import group_by_state
from agentlightning.pipeline._credit_rule import CreditMode, CreditRule, PluginCredit, Share, Spread
from agentlightning.pipeline._critic import critic
from agentlightning.pipeline._leave_one_out import leave_one_out
from agentlightning.pipeline._returns import discounted, earned, outcome, per_step, signals
from agentlightning.targets import load_target
from agentlightning.types import Drop, Experience, Json, Remark, Trajectory, Transition

_MODES: Final[Mapping[str, Spread]] = {
    CreditMode.OUTCOME: outcome,
    CreditMode.DISCOUNTED: discounted,
    CreditMode.PER_STEP: per_step,
    CreditMode.SIGNALS: signals,
    CreditMode.GROUP_BY_STATE: group_by_state,
    CreditMode.LEAVE_ONE_OUT: leave_one_out,
    CreditMode.CRITIC: critic,
}
_USES: Final[Mapping[str, frozenset[str]]] = {
    CreditMode.OUTCOME: frozenset(),
    CreditMode.DISCOUNTED: frozenset({"discount"}),
    CreditMode.PER_STEP: frozenset({"discount"}),
    CreditMode.SIGNALS: frozenset({"discount"}),
    CreditMode.GROUP_BY_STATE: frozenset({"discount", "step_weight", "scale", "anchor"}),
    CreditMode.LEAVE_ONE_OUT: frozenset(),
    CreditMode.CRITIC: frozenset({"discount", "trace", "ridge", "features", "folds"}),
}
_PLUGIN_USES: Final = frozenset({"params"})
_OF_STEPS: Final = frozenset({CreditMode.PER_STEP, CreditMode.GROUP_BY_STATE, CreditMode.CRITIC})
"""Modes for which rewards of single decisions are enough."""


class CreditParams(CreditRule, frozen=True, kw_only=True):
    """Parameters of the stage: those of a rule, and rules of single agents.

    Attributes:
        agents: By name of an agent: what is different for its decisions, such as `mode`. What is not said there is as
            for all, as far as its mode uses it.
    """

    agents: dict[str, dict[str, Json]] = msgspec.field(default_factory=dict)


class Credit:
    """Gives each decision its share of the return (paper 2508.03680, the credit assignment module).

    Credits are on the scale of returns, so that a baseline of the group's returns can be taken from them. A trajectory
    that lacks what its modes spread is left out.
    """

    name = "credit"

    def __init__(self, params: Mapping[str, Json]) -> None:
        where = f"stage {self.name!r}"
        agents = decode_params(params, CreditParams, where=where).agents
        every = {key: value for key, value in params.items() if key != "agents"}
        self._rule = _rule(every, where=where)
        self._rules = {
            agent: _rule(_inherited(own, every), where=f"{where}, agent {agent!r}")
            for agent, own in agents.items()
        }
        self._spreads = {rule: _spread(rule) for rule in (self._rule, *self._rules.values())}

    def __call__(self, experience: Experience) -> Experience:
        lacking = {one.attempt.id: self._lack(one) for one in experience.trajectories}
        drops = tuple(Drop(id=name, reason=reason) for name, reason in lacking.items() if reason)
        kept = replace(
            experience,
            trajectories=tuple(one for one in experience.trajectories if not lacking[one.attempt.id]),
        )
        shares = {rule: spread(kept, rule) for rule, spread in self._spreads.items()}
        trajectories = tuple(
            self._credited(one, {rule: of[number] for rule, of in shares.items()})
            for number, one in enumerate(kept.trajectories)
        )
        return replace(
            kept,
            trajectories=trajectories,
            drops=(*experience.drops, *drops),
            remarks=(*experience.remarks, *_remarks(kept, shares)),
        )

    def _of(self, transition: Transition) -> CreditRule:
        return self._rules.get(transition.agent, self._rule)

    def _lack(self, trajectory: Trajectory) -> str:
        """What a trajectory has not, though a mode of its decisions spreads it; empty if it has all."""
        modes = sorted({self._of(one).mode for one in trajectory.transitions} or {self._rule.mode})
        for mode in modes:
            if trajectory.outcome is None and mode not in _OF_STEPS:
                return f"no outcome, which credit mode {str(mode)!r} spreads"
            if trajectory.outcome is None and all(earned(one) is None for one in trajectory.transitions):
                return f"neither outcome nor reward of a decision, which credit mode {str(mode)!r} spreads"
        return ""

    def _credited(self, trajectory: Trajectory, shares: Mapping[CreditRule, Share]) -> Trajectory:
        return msgspec.structs.replace(
            trajectory,
            transitions=tuple(
                _with_credit(transition, shares[self._of(transition)], number)
                for number, transition in enumerate(trajectory.transitions)
            ),
            episode_return=shares[self._rule].total,
        )


def _with_credit(transition: Transition, share: Share, number: int) -> Transition:
    value = share.values[number] if share.values else transition.value
    return msgspec.structs.replace(transition, credit=share.credits[number], value=value)


def _remarks(experience: Experience, shares: Mapping[CreditRule, list[Share]]) -> Iterator[Remark]:
    for of in shares.values():
        for trajectory, share in zip(experience.trajectories, of, strict=True):
            for reason in share.remarks:
                yield Remark(id=trajectory.attempt.id, reason=reason)


def _inherited(own: Mapping[str, Json], every: Mapping[str, Json]) -> dict[str, Json]:
    """What is said of an agent, and of what is said of all what its mode uses."""
    mode = str(own.get("mode", every.get("mode", CreditMode.OUTCOME)))
    uses = _USES.get(mode, _PLUGIN_USES) | {"mode"}
    return {key: value for key, value in every.items() if key in uses} | dict(own)


def _rule(params: Mapping[str, Json], *, where: str) -> CreditRule:
    """The rule, if its mode is there and uses all that is said."""
    rule = decode_params(params, CreditRule, where=where)
    if rule.mode not in _USES and ":" not in rule.mode:
        near = difflib.get_close_matches(rule.mode, list(_USES), n=1, cutoff=0.5)
        hint = (
            f"did you mean {str(near[0])!r}?"
            if near
            else f"there are {', '.join(_USES)}, and module:function"
        )
        raise ConfigError(f"{where} has no mode {str(rule.mode)!r}; {hint}")
    uses = _USES.get(rule.mode, _PLUGIN_USES)
    for key in sorted(params.keys() - uses - {"mode"}):
        modes = [mode.value for mode in CreditMode if key in _USES[mode]] or ["module:function"]
        raise ConfigError(
            f"{where}: mode {str(rule.mode)!r} does not use {key!r}; used by {', '.join(modes)}"
        )
    return rule


def _spread(rule: CreditRule) -> Spread:
    if rule.mode in _MODES:
        return _MODES[rule.mode]
    return partial(_foreign, cast("PluginCredit", load_target(rule.mode)))


def _foreign(function: PluginCredit, experience: Experience, rule: CreditRule) -> list[Share]:
    """Credits by somebody else's function, each trajectory with as many as it has transitions."""
    given = function(experience, rule.params)
    wanted = [len(trajectory.transitions) for trajectory in experience.trajectories]
    if [len(one) for one in given] != wanted:
        raise ConfigError(
            f"credit mode {rule.mode!r} gave {[len(one) for one in given][:5]!r} credits, the trajectories "
            f"have {wanted[:5]!r} transitions; return one list per trajectory, one credit per transition"
        )
    totals = outcome(experience, rule)
    return [
        Share(total=total.total, credits=tuple(map(float, one)))
        for total, one in zip(totals, given, strict=True)
    ]
