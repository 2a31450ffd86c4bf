"""Capture: which rollout am I in, and what is observed of it."""

from agentlightning.capture._context import Endpoint, RolloutContext, SpanSink, current_rollout, in_rollout

__all__ = ["Endpoint", "RolloutContext", "SpanSink", "current_rollout", "in_rollout"]
