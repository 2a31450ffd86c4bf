"""From experience to a batch: which calls are trained, with which advantage and weight."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from agentlightning.errors import ConfigError
from agentlightning.pipeline import INCOMPLETE
from agentlightning.types import Experience, TokenForest, Trajectory, Transition
from lightning_algorithm_lightningrl.advantages import Estimator, baselines, is_flat

TOKEN_BYTES = 4
"""Size of a packed token id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one update learns from.

    Attributes:
        forest: Tokens with advantages and weights.
        trained: Calls that are trained with an advantage other than 0.
        masked: Calls that are left out, by reason: `incomplete`, `unknown_version`, `stale`.
        metrics: Numbers about the rollouts, by the names that TRL uses where it has them.
    """

    forest: TokenForest
    trained: int
    masked: dict[str, int]
    metrics: dict[str, float]

    @property
    def masked_share(self) -> float:
        """Share of the calls that cannot be trained on."""
        return self.metrics["masked_share"]


def make_batch(experience: Experience, *, version: int, estimator: Estimator, std_eps: float) -> Batch:
    """Gives every call its advantage and each of its tokens a weight.

    Advantages are computed over rollouts, before a call is left out, and broadcast to their calls through the calls'
    credits. The weight of a token is 1 / (tokens of its rollout x rollouts of the batch): each rollout counts the same,
    however long it is and over however many calls and agents it is spread. Calls that are masked keep their place in
    both counts: leaving them out never makes others weigh more. Calls with an advantage of exactly 0 have no gradient,
    so the learner is spared them.

    Args:
        experience: As the pipeline made it.
        version: Policy version that the batch was sampled with; calls of any other are masked.
        estimator: Formula of the advantages.
        std_eps: Term beside the standard deviation.

    Raises:
        ConfigError: The pipeline has left out a stage that this needs.
    """
    if experience.forest is None:
        raise ConfigError(
            "lightningrl learns from a token forest; its pipeline needs the stages group and forest"
        )
    advantages: dict[str, float] = {}
    weights: dict[str, float] = {}
    masked = {"incomplete": _incomplete(experience), "unknown_version": 0, "stale": 0}
    rollouts = sum(len(group.trajectories) for group in experience.groups)
    for group in experience.groups:
        returns = [_return(trajectory) for trajectory in group.trajectories]
        group_baselines = baselines(returns, estimator=estimator, std_eps=std_eps)
        for trajectory, baseline in zip(group.trajectories, group_baselines, strict=True):
            calls = _calls(trajectory)
            tokens = sum(map(_response_tokens, calls))
            for call in calls:
                if reason := _staleness(call, version):
                    masked[reason] += 1
                elif advantage := baseline.advantage(_credit(call)):
                    advantages[call.id] = advantage
                    weights[call.id] = 1.0 / (tokens * rollouts)
    return Batch(
        forest=experience.forest.assign(advantages=advantages, weights=weights),
        trained=len(advantages),
        masked=masked,
        metrics=_rollout_metrics(experience, masked) | _forest_metrics(experience.forest),
    )


def _return(trajectory: Trajectory) -> float:
    if trajectory.outcome is None:
        raise ConfigError(
            f"rollout {trajectory.rollout.id} has no outcome; lightningrl's pipeline needs the stage rewards"
        )
    return trajectory.outcome


def _credit(call: Transition) -> float:
    if call.credit is None:
        raise ConfigError(f"call {call.id} has no credit; lightningrl's pipeline needs the stage credit")
    return call.credit


def _calls(trajectory: Trajectory) -> list[Transition]:
    return [transition for transition in trajectory.transitions if transition.tokens is not None]


def _response_tokens(call: Transition) -> int:
    return len(call.tokens.response) // TOKEN_BYTES if call.tokens else 0


def _staleness(call: Transition, version: int) -> str:
    """Why a call must not be trained on; empty if it may."""
    found = call.tokens.version if call.tokens else -1
    if found < 0:
        return "unknown_version"
    return "" if found == version else "stale"


def _incomplete(experience: Experience) -> int:
    return sum(
        count
        for report in experience.reports
        for reason, count in report.dropped.items()
        if reason.startswith(INCOMPLETE)
    )


def _rollout_metrics(experience: Experience, masked: dict[str, int]) -> dict[str, float]:
    returns = [[_return(trajectory) for trajectory in group.trajectories] for group in experience.groups]
    trajectories = [trajectory for group in experience.groups for trajectory in group.trajectories]
    calls = [call for trajectory in trajectories for call in _calls(trajectory)]
    found = len(calls) + masked["incomplete"]
    metrics = {
        "reward": _mean(value for group in returns for value in group),
        "reward_std": _mean(statistics.stdev(group) for group in returns if len(group) > 1),
        "frac_reward_zero_std": _mean(float(is_flat(group)) for group in returns),
        "groups_of_one": float(sum(len(group) == 1 for group in returns)),
        "rollouts/scored": float(len(trajectories)),
        "rollouts/dropped": float(len(experience.episodes) - len(trajectories)),
        "completions/mean_length": _mean(
            float(sum(map(_response_tokens, _calls(trajectory)))) for trajectory in trajectories
        ),
        "completions/mean_calls": _mean(float(len(_calls(trajectory))) for trajectory in trajectories),
        "masked_share": sum(masked.values()) / found if found else 0.0,
    }
    return metrics | {f"masked/{reason}": float(count) for reason, count in masked.items()}


def _forest_metrics(forest: TokenForest) -> dict[str, float]:
    sizes = {"forest/tokens_in": float(forest.tokens_in), "forest/size": float(forest.size)}
    mismatches = forest.mismatches.items()
    return sizes | {f"forest/mismatch/{reason}": float(count) for reason, count in mismatches}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.fmean(found) if found else 0.0
