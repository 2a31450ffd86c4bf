"""What this package hands to the plugin facade."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.plugins import hookimpl
from agentlightning.specs import AlgorithmSpec


@hookimpl
def agl_register_algorithms() -> Sequence[AlgorithmSpec]:
    """The algorithm `sft`."""
    return (
        AlgorithmSpec(
            name="sft",
            target="lightning_algorithm_sft:create",
            summary="Supervised fine-tuning of weights on recorded conversations.",
            needs_learner=True,
        ),
    )
