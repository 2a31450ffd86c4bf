"""The experience pipeline: stages that turn captured spans into what algorithms learn from."""

from agentlightning.pipeline._builtin import BUILTIN_STAGES
from agentlightning.pipeline._forest import Forest, build_forest, merge_calls
from agentlightning.pipeline._group import GroupByTask
from agentlightning.pipeline._outcome import OutcomeRule
from agentlightning.pipeline._pipeline import Pipeline
from agentlightning.pipeline._stage import Stage, StageFactory
from agentlightning.pipeline._transitions import INCOMPLETE

__all__ = [
    "BUILTIN_STAGES",
    "INCOMPLETE",
    "Forest",
    "GroupByTask",
    "OutcomeRule",
    "Pipeline",
    "Stage",
    "StageFactory",
    "build_forest",
    "merge_calls",
]
