"""Capture: which rollout am I in, and what is observed of it."""

from agentlightning.capture._carriers import environment_carriers
from agentlightning.capture._context import Endpoint, RolloutContext, SpanSink, current_rollout, in_rollout
from agentlightning.capture._exporter import Exporter, ExporterConfig
from agentlightning.capture._rollout_span import rollout_span
from agentlightning.capture._tracing import install_tracing

__all__ = [
    "Endpoint",
    "Exporter",
    "ExporterConfig",
    "RolloutContext",
    "SpanSink",
    "current_rollout",
    "environment_carriers",
    "in_rollout",
    "install_tracing",
    "rollout_span",
]
