"""The experience pipeline: stages that turn captured spans into what algorithms learn from."""

from agentlightning.pipeline._stage import Stage, StageFactory

__all__ = ["Stage", "StageFactory"]
