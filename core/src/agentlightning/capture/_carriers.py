"""What binds a child process to its attempt: OpenTelemetry's environment carriers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentlightning import semconv
from agentlightning.capture._context import RolloutContext


def environment_carriers(
    context: RolloutContext, *, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Variables to add to the environment of a child process of the rollout. They carry ids, never secrets.

    Args:
        context: The rollout.
        environment: Environment they are added to, for its resource attributes; None is this process's own.

    Returns:
        `BAGGAGE`, `OTEL_RESOURCE_ATTRIBUTES` and, inside a span, `TRACEPARENT` (`TRACESTATE`).
    """
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    ids = {semconv.ROLLOUT_ID: context.rollout_id, semconv.ATTEMPT_ID: context.attempt_id}
    pairs = [f"{key}={quote(value, safe='')}" for key, value in ids.items()]
    existing = (os.environ if environment is None else environment).get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {
        **{name.upper(): value for name, value in carrier.items()},
        "BAGGAGE": ",".join(pairs),
        "OTEL_RESOURCE_ATTRIBUTES": ",".join([existing, *pairs] if existing else pairs),
    }
