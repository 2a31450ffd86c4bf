"""Advantages of a whole batch: what is compared with what, and what is whitened over all of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentlightning.errors import ConfigError
from lightning_algorithm_lightningrl._credit_rules import CreditRules
from lightning_algorithm_lightningrl._rollouts import Played, Sampled
from lightning_algorithm_lightningrl._token_values import token_estimates
from lightning_algorithm_lightningrl.advantages import (
    DEFAULTS,
    AdvantageOptions,
    Compare,
    Estimator,
    Gae,
    Gdpo,
    Rae,
    ReinforcePp,
    TokenGae,
    deviation,
    gdpo_advantages,
    group_advantages,
    is_flat,
    rae_advantages,
    unit,
)
from lightning_algorithm_lightningrl.returns import discounted_returns, gae, step_rewards, whiten

STAGE_EPS = 1e-6
"""What the stage `credit` adds to deviations, whatever `std_eps` is."""

Groups = Sequence[Sequence[Played]]
Advantages = dict[str, list[float]]
"""Of each sampled token, by call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How advantages are made.

    Attributes:
        choice: The estimator, or one with its options.
        std_eps: Term beside the standard deviation of a group.
        compare: Which decisions of a group are compared.
        kl: Coefficient of the divergences that are taken out of the returns.
        credit: What the credits are on the scale of.
    """

    choice: Estimator | AdvantageOptions
    std_eps: float = 1e-6
    compare: Compare = Compare.ROLLOUT
    kl: float = 0.0
    credit: CreditRules = field(default_factory=CreditRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What a batch's decisions were worth.

    Attributes:
        advantages: Of each sampled token.
        baselines: Of each agent, for the next update.
        returns: What a value head is to expect before each sampled token; empty without one.
    """

    advantages: Advantages
    baselines: dict[str, float]
    returns: Advantages = field(default_factory=dict)


def batch_advantages(groups: Groups, *, rule: Rule, baselines: Mapping[str, float]) -> Estimates:
    """Advantages of every call, masked ones included: nothing is dropped before rollouts are compared.

    Args:
        groups: All rollouts.
        rule: How.
        baselines: Of each agent, as the last update left them (`rae`).

    Raises:
        ConfigError: The experience lacks what the estimator needs.
    """
    left, returns = dict(baselines), Advantages()
    match DEFAULTS.get(rule.choice, rule.choice) if isinstance(rule.choice, Estimator) else rule.choice:
        case Gdpo(weights=weights):
            found = _by_dimension(groups, weights=weights, rule=rule)
        case Rae(decay=decay):
            found, left = _by_role(groups, decay=decay, rule=rule, baselines=baselines)
        case Gae() as options:
            found = _by_critic(groups, options=options, rule=rule)
        case TokenGae() as by_token:
            found, returns = token_estimates(groups, options=by_token, kl=rule.kl)
            found = _whitened(found) if by_token.whiten else found
        case ReinforcePp(gamma=gamma):
            found = _by_token(groups, gamma=gamma, rule=rule)
        case estimator:
            found = _by_group(groups, estimator=estimator, rule=rule)
    return Estimates(advantages=found, baselines=left, returns=returns)


def is_flat_group(rollouts: Sequence[Played]) -> bool:
    """Whether a group teaches nothing: all credits are equal, and no critic expected anything else."""
    calls = [call for rollout in rollouts for call in rollout.calls]
    alone = [rollout.outcome for rollout in rollouts if not rollout.calls]
    expected = any(call.value is not None and call.value != call.credit for call in calls)
    return not expected and is_flat([*(call.credit for call in calls), *alone])


def _by_group(groups: Groups, *, estimator: Estimator, rule: Rule) -> Advantages:
    found: Advantages = {}
    for rollouts in groups:
        for part in _compared(rollouts, rule.compare):
            own = _compared_part(part, group=rollouts, estimator=estimator, rule=rule)
            for (_, calls), values in zip(part, own, strict=True):
                found |= {call.id: [value] * call.tokens for call, value in zip(calls, values, strict=False)}
        found |= _without_the_agent(rollouts, estimator=estimator, rule=rule)
    for rollout in (rollout for group in groups for rollout in group):
        found |= {
            call.id: [_credit(rollout, call, rule) - call.value] * call.tokens
            for call in rollout.calls
            if call.value is not None
        }
    return _whitened(found) if estimator is Estimator.REINFORCE_PP_BASELINE else found


def _compared(rollouts: Sequence[Played], compare: Compare) -> list[list[tuple[Played, list[Sampled]]]]:
    """The calls that are compared with each other, by rollout; those that a critic judges are compared with it."""
    judged = [
        (rollout, [call for call in rollout.calls if call.value is None])
        for rollout in rollouts
        if not rollout.calls or any(call.value is None for call in rollout.calls)
    ]
    if compare is Compare.ROLLOUT:
        return [judged] if judged else []
    keys = {_key(call, compare): None for _, calls in judged for call in calls}
    return [
        [
            (rollout, own)
            for rollout, calls in judged
            if (own := [call for call in calls if _key(call, compare) == key])
        ]
        for key in keys
    ]


def _compared_part(
    part: Sequence[tuple[Played, Sequence[Sampled]]],
    *,
    group: Sequence[Played],
    estimator: Estimator,
    rule: Rule,
) -> list[list[float]]:
    """Advantages of decisions that are compared with each other, `[rollouts][decisions]`."""
    credits_ = [_credits(rollout, calls, rule) for rollout, calls in part]
    tokens = [sum(call.tokens for call in calls) for _, calls in part]
    if not any(rule.credit.is_anchored(call.agent) for _, calls in part for call in calls):
        return group_advantages(credits_, estimator=estimator, std_eps=rule.std_eps, tokens=tokens)
    # GiGPO (arXiv 2505.10978, equation 8): returns are compared with returns, and the step's part is added to that
    returns = [[_return(rollout, rule)] for rollout, _ in part]
    scale = _unit(group, estimator=estimator, rule=rule)
    compared = group_advantages(returns, estimator=estimator, std_eps=rule.std_eps, tokens=tokens)
    return [
        [whole + scale * (credit - earned) for credit in own]
        for own, (whole,), (earned,) in zip(credits_, compared, returns, strict=True)
    ]


def _without_the_agent(group: Sequence[Played], *, estimator: Estimator, rule: Rule) -> Advantages:
    """Of calls whose agent is compared with what the team earns without it, whatever else is compared with what."""
    agents = {call.agent for rollout in group for call in rollout.calls}
    if not any(rule.credit.is_counterfactual(agent) for agent in agents):
        return {}
    returns = [[_graded(rollout, rule)] for rollout in group]
    tokens = [rollout.tokens for rollout in group]
    # where returns are alike, only rollouts that were left out since the stage `credit` have made a difference
    alike = estimator.divides and not deviation(returns)
    scale = 1.0 if alike else unit(returns, estimator=estimator, std_eps=rule.std_eps)
    compared = group_advantages(returns, estimator=estimator, std_eps=rule.std_eps, tokens=tokens)
    return {
        call.id: [whole + scale * (_credit(rollout, call, rule) - earned)] * call.tokens
        for rollout, (whole,), (earned,) in zip(group, compared, returns, strict=True)
        for call in rollout.calls
        if call.value is None and rule.credit.is_counterfactual(call.agent)
    }


def _unit(group: Sequence[Played], *, estimator: Estimator, rule: Rule) -> float:
    """What an advantage has per unit of what the stage `credit` has added to the returns of a group."""
    returns = [[_return(rollout, rule)] for rollout in group]
    if not estimator.divides:
        return unit(returns, estimator=estimator, std_eps=rule.std_eps)
    apart = deviation(returns)
    added = max((abs(call.credit - one.outcome) for one in group for call in one.calls), default=0.0)
    # the stage multiplies by the deviation plus its eps, or by 1 where there is one rollout; more than eps allows was
    # added when there were others, who had other returns
    alone = len(group) == 1 or (not apart and added > math.sqrt(STAGE_EPS))
    return 1.0 if alone else 1.0 / (apart + STAGE_EPS)


def _key(call: Sampled, compare: Compare) -> str | tuple[str, int]:
    return call.agent if compare is Compare.AGENT else (call.agent, call.turn)


def _credits(rollout: Played, calls: Sequence[Sampled], rule: Rule) -> list[float]:
    """Of the calls; a rollout none of whose calls is known still counts in its group, with its return."""
    return [
        # what the team earns without an agent is no part of anybody else's baseline
        _graded(rollout, rule) if rule.credit.is_counterfactual(call.agent) else _credit(rollout, call, rule)
        for call in calls
    ] or [rollout.outcome]


def _graded(rollout: Played, rule: Rule) -> float:
    """What a rollout was judged to be worth as a whole, less its divergence."""
    whole = rollout.outcome if rollout.graded is None else rollout.graded
    return whole - rule.kl * sum(sum(each.divergence) for each in rollout.calls)


def _return(rollout: Played, rule: Rule) -> float:
    """What a rollout earned, less its divergence."""
    return rollout.outcome - rule.kl * sum(sum(each.divergence) for each in rollout.calls)


def _credit(rollout: Played, call: Sampled, rule: Rule) -> float:
    """A call's credit, less the divergence of its whole rollout."""
    return call.credit - rule.kl * sum(sum(each.divergence) for each in rollout.calls)


def _by_dimension(groups: Groups, *, weights: Mapping[str, float], rule: Rule) -> Advantages:
    rollouts = [rollout for group in groups for rollout in group]
    names = {name for rollout in rollouts for name in rollout.outcomes} | weights.keys()
    for rollout in rollouts:
        if missing := names - rollout.outcomes.keys():
            raise ConfigError(
                f"advantage 'gdpo' compares each dimension of the outcome, and a rollout has no "
                f"{sorted(missing)!r} "
                f"but {sorted(rollout.outcomes)!r}; let every grader score every rollout, or name other weights"
            )
        if any(call.credit != rollout.outcome for call in rollout.calls):
            raise ConfigError(
                "advantage 'gdpo' is one of whole outcomes, and the credit stage gives calls another credit; take "
                "credit mode 'outcome' or another advantage"
            )
    outcomes = [[rollout.outcomes for rollout in group] for group in groups]
    found = gdpo_advantages(outcomes, weights=weights, std_eps=rule.std_eps)
    return {
        call.id: [value] * call.tokens
        for group, values in zip(groups, found, strict=True)
        for rollout, value in zip(group, values, strict=True)
        for call in rollout.calls
    }


def _by_role(
    groups: Groups, *, decay: float, rule: Rule, baselines: Mapping[str, float]
) -> tuple[Advantages, dict[str, float]]:
    roles = [
        (agent, [(call, _credit(rollout, call, rule)) for call in rollout.calls if call.agent == agent])
        for group in groups
        for rollout in group
        for agent in dict.fromkeys(call.agent for call in rollout.calls)
    ]
    returns = [(agent, statistics.fmean(credit for _, credit in calls)) for agent, calls in roles]
    values, left = rae_advantages(returns, baselines=baselines, decay=decay)
    found = {
        call.id: [value + credit - mean] * call.tokens
        for (_, calls), (_, mean), value in zip(roles, returns, values, strict=True)
        for call, credit in calls
    }
    return found, left


def _by_critic(groups: Groups, *, options: Gae, rule: Rule) -> Advantages:
    found: Advantages = {}
    rollouts = [rollout for group in groups for rollout in group]
    if len(rollouts) == 1 and all(call.value is None for call in rollouts[0].calls):
        # a critic is one of the other rollouts of the update
        return {call.id: [0.0] * call.tokens for call in rollouts[0].calls}
    for rollout in rollouts:
        values = [_value(call) for call in rollout.calls]
        rewards = step_rewards([call.credit for call in rollout.calls], gamma=options.gamma)
        rewards = [
            reward - rule.kl * sum(call.divergence)
            for reward, call in zip(rewards, rollout.calls, strict=True)
        ]
        own = gae(rewards, values=values, gamma=options.gamma, lam=options.lam)
        found |= {call.id: [value] * call.tokens for call, value in zip(rollout.calls, own, strict=True)}
    return _whitened(found) if options.whiten else found


def _value(call: Sampled) -> float:
    if call.value is None:
        raise ConfigError(
            f"advantage 'gae' compares with what a critic expected, and call {call.id} has no value; take credit mode "
            "'critic', or another advantage"
        )
    return call.value


def _by_token(groups: Groups, *, gamma: float, rule: Rule) -> Advantages:
    found: Advantages = {}
    for rollout in (rollout for group in groups for rollout in group):
        rewards: list[float] = []
        ends = step_rewards([call.credit for call in rollout.calls], gamma=1.0)
        for call, end in zip(rollout.calls, ends, strict=True):
            own = [-rule.kl * apart for apart in call.divergence] or [0.0] * call.tokens
            if own:
                own[-1] += end
            rewards += own
        returns = iter(discounted_returns(rewards, gamma=gamma))
        found |= {call.id: [next(returns) for _ in range(call.tokens)] for call in rollout.calls}
    return _whitened(found)


def _whitened(found: Advantages) -> Advantages:
    """Mean 0 and deviation 1 over all tokens of the batch."""
    flat = [value for values in found.values() for value in values]
    whitened = iter(whiten(flat, counts=[1.0] * len(flat)))
    return {name: [next(whitened) for _ in values] for name, values in found.items()}
