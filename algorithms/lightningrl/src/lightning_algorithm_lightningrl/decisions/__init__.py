"""Learning what `agl.decide` chooses: a contextual policy gradient, judged off-policy from logged propensities."""

from lightning_algorithm_lightningrl.decisions._config import Baseline, DecisionsConfig, Promotion
from lightning_algorithm_lightningrl.decisions._logged import LoggedDecision, LoggedRollout, logged
from lightning_algorithm_lightningrl.decisions._loop import Decisions, create
from lightning_algorithm_lightningrl.decisions.offpolicy import (
    Comparison,
    Estimate,
    Estimates,
    compare,
    default_target,
    effective_sample_size,
    evaluate,
    target_of,
)

__all__ = [
    "Baseline",
    "Comparison",
    "Decisions",
    "DecisionsConfig",
    "Estimate",
    "Estimates",
    "LoggedDecision",
    "LoggedRollout",
    "Promotion",
    "compare",
    "create",
    "default_target",
    "effective_sample_size",
    "evaluate",
    "logged",
    "target_of",
]
