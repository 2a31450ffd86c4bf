"""What this package hands to the plugin facade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.plugins import hookimpl
from agentlightning.specs import AlgorithmSpec

if TYPE_CHECKING:
    from agentlightning.pipeline import Pipeline


@hookimpl
def agl_register_algorithms() -> Sequence[AlgorithmSpec]:
    """The algorithms `lightningrl` and `decisions`."""
    return (
        AlgorithmSpec(
            name="lightningrl",
            target="lightning_algorithm_lightningrl:create",
            summary="Reinforcement learning of weights: group-relative advantages, clipped policy gradient.",
            needs_learner=True,
            on_policy=True,
        ),
        AlgorithmSpec(
            name="decisions",
            target="lightning_algorithm_lightningrl.decisions:create",
            summary="Learns what agl.decide chooses: contextual policy gradient, judged off-policy.",
        ),
    )


@hookimpl
def agl_configure_pipeline(pipeline: Pipeline, algorithm: str) -> Pipeline | None:
    """A pipeline configured without groups or forest gets them: LightningRL compares the one and trains the other."""
    if "lightningrl" not in algorithm.split("+"):
        return None
    from agentlightning.pipeline import Forest, GroupByTask, Pipeline

    missing = [stage({}) for stage in (GroupByTask, Forest) if stage.name not in pipeline.names]
    return Pipeline((*pipeline.stages, *missing)) if missing else None
