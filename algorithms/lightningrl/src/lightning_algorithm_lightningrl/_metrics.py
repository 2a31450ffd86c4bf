"""Every number about a batch that a decision uses, by the names that TRL uses where it has them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from agentlightning.types import Experience, TokenForest
from lightning_algorithm_lightningrl._advantage import is_flat_group
from lightning_algorithm_lightningrl._rollouts import Played
from lightning_algorithm_lightningrl.advantages import is_flat
from lightning_algorithm_lightningrl.correction import LARGEST_LOG_RATIO

Metrics = dict[str, float]


def batch_metrics(
    experience: Experience,
    groups: Sequence[Sequence[Played]],
    *,
    advantages: Mapping[str, Sequence[float]],
    weights: Mapping[str, Sequence[float]],
    masked: Mapping[str, int],
) -> Metrics:
    """Numbers about rollouts, lengths, what is left out, importance ratios and the forest.

    Args:
        experience: As the pipeline made it.
        groups: All rollouts.
        advantages: Of each sampled token, by call.
        weights: The same of what is trained.
        masked: Calls that are left out, by reason.
    """
    rollouts = [rollout for group in groups for rollout in group]
    calls = [call for rollout in rollouts for call in rollout.calls]
    found = len(calls) + masked["incomplete"]
    metrics = {
        **_rewards(groups),
        "rollouts/scored": float(len(rollouts)),
        "rollouts/dropped": float(len(experience.episodes) - len(rollouts)),
        **_selected(experience),
        **_lengths(rollouts),
        **_clipped(experience),
        "masked_share": sum(masked.values()) / found if found else 0.0,
        **{f"masked/{reason}": float(count) for reason, count in masked.items()},
        **_spread("staleness", [float(call.staleness) for call in calls if call.staleness is not None]),
        **_spread("advantage", [value for name in weights for value in advantages[name]], least=True),
        **_ratios([value for call in calls for value in call.log_ratios]),
        **_weights(weights),
    }
    if apart := [value for call in calls for value in call.divergence]:
        metrics["kl_reward"] = statistics.fmean(apart)
    return metrics | (_forest(experience.forest) if experience.forest else {})


def _rewards(groups: Sequence[Sequence[Played]]) -> Metrics:
    returns = [[rollout.outcome for rollout in group] for group in groups]
    if not any(returns):  # what nobody scored has no reward, not one of 0
        return {"groups_of_one": 0.0}
    metrics = {
        "reward": _mean(value for group in returns for value in group),
        "reward_std": _mean(statistics.stdev(group) for group in returns if len(group) > 1),
        "frac_reward_zero_std": _mean(float(is_flat(group)) for group in returns),
        "frac_credit_flat": _mean(float(is_flat_group(group)) for group in groups),
        "groups_of_one": float(sum(len(group) == 1 for group in returns)),
    }
    dimensions: dict[str, list[float]] = {}
    for rollout in (rollout for group in groups for rollout in group):
        for name, value in rollout.outcomes.items():
            dimensions.setdefault(name, []).append(value)
    if len(dimensions) > 1:
        metrics |= {f"rewards/{name}/mean": statistics.fmean(values) for name, values in dimensions.items()}
    return metrics


def _selected(experience: Experience) -> Metrics:
    """How many rollouts and groups the stages left out that choose among what could be trained on."""
    return {
        f"dropped/{report.stage}": float(sum(report.dropped.values()))
        for report in experience.reports
        if report.stage in ("filter", "balance", "replay")
    }


def _lengths(rollouts: Sequence[Played]) -> Metrics:
    lengths = [float(rollout.tokens) for rollout in rollouts]
    return {
        "completions/mean_length": _mean(lengths),
        "completions/min_length": min(lengths, default=0.0),
        "completions/max_length": max(lengths, default=0.0),
        "completions/mean_calls": _mean(float(len(rollout.calls)) for rollout in rollouts),
    }


def _clipped(experience: Experience) -> Metrics:
    """Share of the calls whose answer ended at the limit of tokens."""
    records = [
        one.tokens for trajectory in experience.trajectories for one in trajectory.transitions if one.tokens
    ]
    return {"completions/clipped_ratio": _mean(float(one.finish_reason == "length") for one in records)}


def over_passes(found: Sequence[Metrics]) -> Metrics:
    """Metrics of an update: means over its passes, but for what is a greatest or least."""
    names = {name: None for metrics in found for name in metrics}
    return {name: _over(name, [metrics[name] for metrics in found if name in metrics]) for name in names}


def _over(name: str, values: Sequence[float]) -> float:
    match name.rpartition("/")[2]:
        case "max":
            return max(values)
        case "min":
            return min(values)
        case _:
            return statistics.fmean(values)


def _spread(name: str, values: Sequence[float], *, least: bool = False) -> Metrics:
    found = {f"{name}/mean": _mean(values), f"{name}/max": max(values, default=0.0)}
    return found | ({f"{name}/min": min(values, default=0.0)} if least else {})


def _ratios(log_ratios: Sequence[float]) -> Metrics:
    """How far learner and sampler are apart, if the learner was asked."""
    if not log_ratios:
        return {}
    ratios = [math.exp(max(-LARGEST_LOG_RATIO, min(LARGEST_LOG_RATIO, value))) for value in log_ratios]
    name = "sampling/importance_sampling_ratio"
    return {
        "sampling/sampling_logp_difference/mean": statistics.fmean(map(abs, log_ratios)),
        "sampling/sampling_logp_difference/max": max(map(abs, log_ratios)),
        f"{name}/mean": statistics.fmean(ratios),
        f"{name}/min": min(ratios),
        f"{name}/max": max(ratios),
    }


def _weights(weights: Mapping[str, Sequence[float]]) -> Metrics:
    """Share of the tokens that could be trained which a correction rejects."""
    tokens = sum(map(len, weights.values()))
    rejected = sum(value == 0 for values in weights.values() for value in values)
    return {"correction/rejected": rejected / tokens if tokens else 0.0}


def _forest(forest: TokenForest) -> Metrics:
    sizes = {"forest/tokens_in": float(forest.tokens_in), "forest/size": float(forest.size)}
    mismatches = forest.mismatches.items()
    return sizes | {f"forest/mismatch/{reason}": float(count) for reason, count in mismatches}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.fmean(found) if found else 0.0
