"""The experience pipeline: stages that turn captured spans into what algorithms learn from."""

from agentlightning.pipeline._builtin import BUILTIN_STAGES
from agentlightning.pipeline._forest import build_forest, merge_calls
from agentlightning.pipeline._outcome import OutcomeRule, outcomes_by_rollout
from agentlightning.pipeline._pipeline import Pipeline
from agentlightning.pipeline._stage import Stage, StageFactory
from agentlightning.pipeline._transitions import INCOMPLETE

__all__ = [
    "BUILTIN_STAGES",
    "INCOMPLETE",
    "OutcomeRule",
    "Pipeline",
    "Stage",
    "StageFactory",
    "build_forest",
    "merge_calls",
    "outcomes_by_rollout",
]
