"""What this package hands to the plugin facade."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.plugins import hookimpl
from agentlightning.specs import AlgorithmSpec


@hookimpl
def agl_register_algorithms() -> Sequence[AlgorithmSpec]:
    """The algorithm `lightningrl`."""
    return (
        AlgorithmSpec(
            name="lightningrl",
            target="lightning_algorithm_lightningrl:create",
            summary="Reinforcement learning of weights: group-relative advantages, clipped policy gradient.",
            needs_learner=True,
        ),
    )
