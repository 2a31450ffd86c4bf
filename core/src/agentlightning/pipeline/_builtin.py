"""The stages of the default pipeline, as specs."""

from __future__ import annotations

from typing import Final

from agentlightning.specs import StageSpec

BUILTIN_STAGES: Final[tuple[StageSpec, ...]] = (
    StageSpec(
        name="join",
        target="agentlightning.pipeline._join:Join",
        summary="framework span and gateway span become one call",
        default=True,
        order=100,
    ),
    StageSpec(
        name="order",
        target="agentlightning.pipeline._order:Order",
        summary="spans in causal order",
        default=True,
        order=200,
    ),
    StageSpec(
        name="transitions",
        target="agentlightning.pipeline._transitions:Transitions",
        summary="calls, decisions and actions become transitions",
        default=True,
        order=300,
    ),
    StageSpec(
        name="rewards",
        target="agentlightning.pipeline._rewards:Rewards",
        summary="rewards to decisions and outcomes",
        default=True,
        order=400,
    ),
    StageSpec(
        name="credit",
        target="agentlightning.pipeline._credit:Credit",
        summary="each decision's share of the return",
        default=True,
        order=500,
    ),
    StageSpec(
        name="group",
        target="agentlightning.pipeline._group:GroupByTask",
        summary="trajectories of one task side by side",
        default=True,
        order=600,
    ),
    StageSpec(
        name="forest",
        target="agentlightning.pipeline._forest:Forest",
        summary="calls as prefix trees over tokens",
        default=True,
        order=700,
    ),
)
"""What core registers through `agl_register_stages`."""
