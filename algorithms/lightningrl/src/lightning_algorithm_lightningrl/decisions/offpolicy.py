"""Off-policy evaluation: what a policy would have earned, from rollouts that others decided and logged.

With ratios `rho_k = target(a_k) / propensity_k` of a rollout's decisions and its return `G`:

- IPS: the mean of `G prod_k rho_k` (Horvitz and Thompson 1952); unbiased where every option that the target takes had a
  chance, and of high variance.
- SNIPS: the same over the mean of `prod_k rho_k` (Swaminathan and Joachims 2015); consistent.
- DR: doubly robust (Dudik et al. 2011; over several decisions Jiang and Li 2016):
  `V_k = v(s_k) + rho_k (V_{k+1} - q(s_k, a_k))`, `V_{K+1} = G`; unbiased like IPS whatever the model `q` says, and with
  less variance the better it is. `q` is a ridge regression of the return, fitted on other groups than it is used for.

Intervals are percentile bootstraps over groups, since rollouts of one task are not independent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from agentlightning.decisions import Vector, propensities, vectors
from agentlightning.types import DecisionPolicy
from lightning_algorithm_lightningrl.decisions._linear import dot, ridge
from lightning_algorithm_lightningrl.decisions._logged import LoggedDecision, LoggedRollout

Target = Callable[[LoggedDecision], Sequence[float]]
"""The policy that is judged: probability of each option."""

RESAMPLES = 1_000
"""Of a bootstrap."""
_BITS = 14
_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean return with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What a policy would have earned.

    Attributes:
        n: Rollouts.
        effective: Effective sample size `(sum w)^2 / sum w^2` of the importance weights (Kish 1965).
        largest: Greatest importance weight.
        logged: Mean return of the rollouts as they were.
    """

    ips: Estimate
    snips: Estimate
    dr: Estimate
    n: int
    effective: float
    largest: float
    logged: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A policy against another one on the same rollouts.

    Attributes:
        gain: Difference of the doubly robust estimates, paired by rollout.
    """

    candidate: Estimates
    incumbent: Estimates
    gain: Estimate


def target_of(policy: DecisionPolicy, *, greedy: bool | None = None) -> Target:
    """A policy as it decides in use: greedy if it says so. Decisions beyond its points take their first option."""
    greedily = policy.greedy if greedy is None else greedy

    def target(decision: LoggedDecision) -> Sequence[float]:
        if policy.points and decision.name not in policy.points:
            return default_target(decision)
        return propensities(
            policy, decision.name, options=decision.options, context=decision.context, greedy=greedily
        )

    return target


def default_target(decision: LoggedDecision) -> Sequence[float]:
    """What happens without a policy: the first option, always."""
    return [float(index == 0) for index in range(len(decision.options))]


def effective_sample_size(weights: Sequence[float]) -> float:
    """`(sum w)^2 / sum w^2`; 0 if all weights are 0."""
    squares = sum(weight * weight for weight in weights)
    return sum(weights) ** 2 / squares if squares else 0.0


def evaluate(
    rollouts: Sequence[LoggedRollout], *, target: Target, seed: int = 0, resamples: int = RESAMPLES
) -> Estimates:
    """Judges a policy.

    Args:
        rollouts: Logged under any policies, with propensities; none of them must have trained the target.
        target: The policy.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.

    Raises:
        ValueError: There are no rollouts.
    """
    return _estimates(_judged(rollouts, target, _models(rollouts)), seed=seed, resamples=resamples)


def compare(
    rollouts: Sequence[LoggedRollout],
    *,
    candidate: Target,
    incumbent: Target,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Judges two policies on the same rollouts; arguments and errors as `evaluate`."""
    models = _models(rollouts)
    new, old = _judged(rollouts, candidate, models), _judged(rollouts, incumbent, models)
    gains = [mine.robust - other.robust for mine, other in zip(new, old, strict=True)]
    groups = [rollout.group for rollout in rollouts]
    ones = [1.0] * len(gains)
    return Comparison(
        candidate=_estimates(new, seed=seed, resamples=resamples),
        incumbent=_estimates(old, seed=seed, resamples=resamples),
        gain=_bootstrapped(groups, numerators=gains, denominators=ones, seed=seed, resamples=resamples),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A rollout under a target: its importance weight, return and doubly robust return."""

    group: str
    weight: float
    value: float
    robust: float


def _judged(rollouts: Sequence[LoggedRollout], target: Target, models: Mapping[str, _Model]) -> list[_Judged]:
    found = []
    for rollout in rollouts:
        model, weight, robust = models[rollout.group], 1.0, rollout.value
        for decision in reversed(rollout.decisions):
            shares = target(decision)
            ratio = shares[decision.index] / decision.propensity
            expected = model(decision)
            worth = sum(share * value for share, value in zip(shares, expected, strict=True))
            robust = worth + ratio * (robust - expected[decision.index])
            weight *= ratio
        found.append(_Judged(group=rollout.group, weight=weight, value=rollout.value, robust=robust))
    return found


def _estimates(judged: Sequence[_Judged], *, seed: int, resamples: int) -> Estimates:
    bootstrapped = partial(_bootstrapped, [one.group for one in judged], seed=seed, resamples=resamples)
    weights, ones = [one.weight for one in judged], [1.0] * len(judged)
    earned = [one.weight * one.value for one in judged]
    return Estimates(
        ips=bootstrapped(numerators=earned, denominators=ones),
        snips=bootstrapped(numerators=earned, denominators=weights),
        dr=bootstrapped(numerators=[one.robust for one in judged], denominators=ones),
        n=len(judged),
        effective=effective_sample_size(weights),
        largest=max(weights),
        logged=fmean(one.value for one in judged),
    )


def _bootstrapped(
    groups: Sequence[str],
    *,
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int,
    resamples: int,
) -> Estimate:
    """Sum over sum, with the interval of resampled groups; 0 where the denominators are."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    above, below = [0.0] * len(places), [0.0] * len(places)
    for group, first, second in zip(groups, numerators, denominators, strict=True):
        above[places[group]] += first
        below[places[group]] += second
    generator = random.Random(seed)
    drawn = sorted(
        _ratio([above[place] for place in chosen], [below[place] for place in chosen])
        for chosen in (generator.choices(range(len(places)), k=len(places)) for _ in range(resamples))
    )
    return Estimate(
        value=_ratio(above, below), low=drawn[int(0.025 * resamples)], high=drawn[int(0.975 * resamples) - 1]
    )


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    total = sum(below)
    return sum(above) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class _Model:
    """Expected return of each option: the mean, and what its features change in it."""

    mean: float
    weights: dict[int, float]

    def __call__(self, decision: LoggedDecision) -> list[float]:
        return [self.mean + dot(self.weights, row) for row in _rows(decision)]


def _models(rollouts: Sequence[LoggedRollout]) -> dict[str, _Model]:
    """For each group a model that has not seen it, nor the others of its fold.

    Folds are drawn: tasks often alternate, and folds that alternate too would never see some kinds of them.
    """
    if not rollouts:
        raise ValueError("there are no logged rollouts to judge a policy on; log some first")
    groups = list(dict.fromkeys(rollout.group for rollout in rollouts))
    random.Random(0).shuffle(groups)
    folds = {group: place % _FOLDS for place, group in enumerate(groups)}
    fitted = {
        fold: _fitted([one for one in rollouts if folds[one.group] != fold]) for fold in set(folds.values())
    }
    return {group: fitted[fold] for group, fold in folds.items()}


def _fitted(rollouts: Sequence[LoggedRollout]) -> _Model:
    mean = fmean(rollout.value for rollout in rollouts) if rollouts else 0.0
    taken = [
        (_rows(one)[one.index], rollout.value - mean) for rollout in rollouts for one in rollout.decisions
    ]
    return _Model(mean, ridge([row for row, _ in taken], [value for _, value in taken]))


def _rows(decision: LoggedDecision) -> list[Vector]:
    return vectors(decision.name, decision.options, context=decision.context, bits=_BITS)
