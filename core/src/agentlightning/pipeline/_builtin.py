"""The built-in stages, as specs in the order in which they make sense."""

from __future__ import annotations

from typing import Final

from agentlightning.specs import StageSpec

BUILTIN_STAGES: Final[tuple[StageSpec, ...]] = (
    StageSpec(
        name="normalise",
        target="agentlightning.pipeline._normalise:Normalise",
        summary="spans of other instrumentations in our words",
        default=True,
        order=50,
    ),
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
        name="select",
        target="agentlightning.pipeline._select:Select",
        summary="which decisions are trained; the rest is environment",
        default=True,
        order=250,
    ),
    StageSpec(
        name="transitions",
        target="agentlightning.pipeline._transitions:Transitions",
        summary="calls, decisions and actions become transitions",
        default=True,
        order=300,
    ),
    StageSpec(
        name="signals",
        target="agentlightning.pipeline._signals:Signals",
        summary="errors, retries, tools and guard-rails become rewards",
        order=350,
    ),
    StageSpec(
        name="rewards",
        target="agentlightning.pipeline._rewards:Rewards",
        summary="rewards to decisions and outcomes",
        default=True,
        order=400,
    ),
    StageSpec(
        name="validate",
        target="agentlightning.pipeline._validate:Validate",
        summary="rewards that cannot be true train nothing",
        default=True,
        order=450,
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
        name="filter",
        target="agentlightning.pipeline._filter:Filter",
        summary="stale, long and uninformative rollouts and groups go",
        order=620,
    ),
    StageSpec(
        name="balance",
        target="agentlightning.pipeline._balance:Balance",
        summary="a curriculum of groups by pass rate",
        order=640,
    ),
    StageSpec(
        name="replay",
        target="agentlightning.pipeline._replay:Replay",
        summary="some groups, drawn by seed",
        order=660,
    ),
    StageSpec(
        name="forest",
        target="agentlightning.pipeline._forest:Forest",
        summary="calls as prefix trees over tokens",
        default=True,
        order=700,
    ),
    StageSpec(
        name="chat",
        target="agentlightning.pipeline._chat:Chat",
        summary="conversations to imitate",
        order=800,
    ),
    StageSpec(
        name="preferences",
        target="agentlightning.pipeline._preferences:Preferences",
        summary="better and worse answers to the same",
        order=820,
    ),
)
"""What core registers through `agl_register_stages`."""
