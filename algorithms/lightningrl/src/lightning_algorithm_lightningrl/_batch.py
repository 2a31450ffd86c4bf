"""From experience to a batch: which calls are trained, with which advantages and weights."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentlightning.errors import ConfigError, NumericalError
from agentlightning.pipeline import INCOMPLETE
from agentlightning.types import Experience, TokenForest
from lightning_algorithm_lightningrl._advantage import Rule, batch_advantages
from lightning_algorithm_lightningrl._credit_rules import CreditRules
from lightning_algorithm_lightningrl._metrics import batch_metrics
from lightning_algorithm_lightningrl._rollouts import Played, Sampled, played
from lightning_algorithm_lightningrl._token_values import critic_metrics
from lightning_algorithm_lightningrl.advantages import AdvantageOptions, Compare, Estimator
from lightning_algorithm_lightningrl.aggregation import Aggregation, SequenceSumNorm, token_weights
from lightning_algorithm_lightningrl.correction import Correction, combined
from lightning_algorithm_lightningrl.loss_settings import Kl

Weights = dict[str, list[float]]
"""Of each sampled token, by call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one update learns from.

    Attributes:
        forest: Tokens with advantages and weights.
        trained: Calls that are trained: with an advantage other than 0, unless those of 0 have a gradient too.
        masked: Calls that are left out, by reason: `incomplete`, `unknown_version`, `stale`.
        metrics: Numbers about the rollouts, by the names that TRL uses where it has them.
        baselines: Of each agent, for the next update (`rae`).
    """

    forest: TokenForest
    trained: int
    masked: dict[str, int]
    metrics: dict[str, float]
    baselines: dict[str, float] = field(default_factory=dict)

    @property
    def masked_share(self) -> float:
        """Share of the calls that cannot be trained on."""
        return self.metrics["masked_share"]


def make_batch(
    experience: Experience,
    *,
    version: int | None,
    estimator: Estimator | AdvantageOptions,
    std_eps: float = 1e-6,
    compare: Compare = Compare.ROLLOUT,
    aggregation: Aggregation | SequenceSumNorm = Aggregation.TOKEN_MEAN,
    corrections: Sequence[Correction] = (),
    kl_in_reward: Kl | None = None,
    max_staleness: int = 0,
    trains_flat: bool = False,
    baselines: Mapping[str, float] | None = None,
    credit: CreditRules | None = None,
) -> Batch:
    """Gives every sampled token its advantage and its weight.

    Advantages are computed over rollouts, before a call is left out. Calls that are masked keep their place in all
    denominators: leaving them out never makes others weigh more. Calls with an advantage of exactly 0 have no gradient,
    so the learner is spared them, unless something else than the policy loss has one.

    Args:
        experience: As the pipeline made it; its forest with `old_logprobs` for corrections, with `reference_logprobs`
            for a kl, with `values` for a critic of tokens, and with `weights` where tokens come with a factor.
        version: Policy version that is current; None for experience of whatever policy, of which nothing is stale.
        estimator: Formula of the advantages, or options of one.
        std_eps: Term beside the standard deviation.
        compare: Which decisions of a group are compared.
        aggregation: What counts the same in the loss.
        corrections: Factors on the weights.
        kl_in_reward: What is taken out of the returns.
        max_staleness: Calls further behind are masked.
        trains_flat: Whether calls with an advantage of 0 are trained.
        baselines: Of each agent, as the last update left them (`rae`).
        credit: What the credits are on the scale of.

    Raises:
        ConfigError: The pipeline has left out a stage that this needs.
        NumericalError: Returns are too large to be compared.
    """
    forest = experience.forest
    if forest is None:
        raise ConfigError(
            "lightningrl learns from a token forest; its pipeline needs the stages group and forest"
        )
    groups = played(experience, forest=forest, version=version, kl_in_reward=kl_in_reward)
    rule = Rule(
        choice=estimator,
        std_eps=std_eps,
        compare=compare,
        kl=kl_in_reward.coefficient if kl_in_reward else 0.0,
        credit=credit or CreditRules(),
    )
    try:
        estimates = batch_advantages(groups, rule=rule, baselines=baselines or {})
    except OverflowError as error:
        largest = max((abs(rollout.outcome) for group in groups for rollout in group), default=0.0)
        raise NumericalError(
            f"returns as large as {largest:.3g} cannot be compared: their squares are beyond what numbers hold. Look "
            "for a reward that is wrong, or give the stage validate a range, such as outcome = [-1, 1]"
        ) from error
    advantages = estimates.advantages
    masked = {"incomplete": _incomplete(experience), "unknown_version": 0, "stale": 0}
    weights: Weights = {}
    given = _given(forest)
    calls = [[call.tokens for call in rollout.calls] for group in groups for rollout in group]
    shares = iter(token_weights(calls, aggregation=aggregation))
    for rollout in (rollout for group in groups for rollout in group):
        own = zip(rollout.calls, next(shares), _factors(rollout, corrections), strict=True)
        for call, share, factors in own:
            if reason := _left_out(call, max_staleness):
                masked[reason] += 1
            elif trains_flat or any(advantages[call.id]):
                own_given = given.get(call.id) or [1.0] * call.tokens
                weights[call.id] = [
                    share * one * factor for one, factor in zip(own_given, factors, strict=True)
                ]
    filled = forest.with_column(
        "advantages", response_column(forest, {name: advantages[name] for name in weights})
    )
    filled = filled.with_column("weights", response_column(forest, weights))
    if estimates.returns:
        filled = filled.with_column("returns", response_column(forest, estimates.returns))
    metrics = batch_metrics(experience, groups, advantages=advantages, weights=weights, masked=masked)
    return Batch(
        forest=filled,
        trained=sum(map(any, weights.values())),
        masked=masked,
        metrics={**metrics, **critic_metrics(groups, returns=estimates.returns)},
        baselines=estimates.baselines,
    )


def _factors(rollout: Played, corrections: Sequence[Correction]) -> list[list[float]]:
    if not corrections:
        return [[1.0] * call.tokens for call in rollout.calls]
    return combined([call.log_ratios for call in rollout.calls], corrections=corrections)


def _left_out(call: Sampled, max_staleness: int) -> str:
    """Why a call must not be trained on; empty if it may."""
    if call.staleness is None:
        return "unknown_version"
    return "" if 0 <= call.staleness <= max_staleness else "stale"


def response_column(forest: TokenForest, numbers: Mapping[str, Sequence[float]]) -> list[array[float]]:
    """The numbers of calls at their response tokens, 0 elsewhere; `[trees][N]`."""
    found = [array("f", bytes(4 * len(tree))) for tree in forest.trees]
    for tree, column in zip(forest.trees, found, strict=True):
        for call in tree.calls:
            if call.transition_id in numbers:
                column[call.start : call.stop] = array("f", numbers[call.transition_id])
    return found


def _given(forest: TokenForest) -> Weights:
    """Factors that tokens came with, in the forest's weights; none where nobody has weighed anything."""
    if not any(any(tree.weights) for tree in forest.trees):
        return {}
    return {
        call.transition_id: list(tree.weights[call.start : call.stop])
        for tree in forest.trees
        for call in tree.calls
    }


def _incomplete(experience: Experience) -> int:
    return sum(
        count
        for report in experience.reports
        for reason, count in report.dropped.items()
        if reason.startswith(INCOMPLETE)
    )
