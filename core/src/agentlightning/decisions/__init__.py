"""Decision points: how they are described, scored, drawn and recorded."""

from agentlightning.decisions._decide import decide
from agentlightning.decisions._features import Vector, vectors
from agentlightning.decisions._policy import draw, mixed, most_probable, probabilities, propensities, softmax

__all__ = [
    "Vector",
    "decide",
    "draw",
    "mixed",
    "most_probable",
    "probabilities",
    "propensities",
    "softmax",
    "vectors",
]
