"""Composition: several algorithms in one run — one after another, in turn, or at once from the same rollouts."""

from agentlightning.compose._alternate import AlternateAlgorithm
from agentlightning.compose._plan import How, Plan, PlanLike, alternate, part, plan_of, sequence, together
from agentlightning.compose._selection import SelectingAlgorithm
from agentlightning.compose._sequence import SequenceAlgorithm
from agentlightning.compose._together import TogetherAlgorithm

__all__ = [
    "AlternateAlgorithm",
    "How",
    "Plan",
    "PlanLike",
    "SelectingAlgorithm",
    "SequenceAlgorithm",
    "TogetherAlgorithm",
    "alternate",
    "part",
    "plan_of",
    "sequence",
    "together",
]
