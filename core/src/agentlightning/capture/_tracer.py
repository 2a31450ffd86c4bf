"""The tracer of spans that this package makes itself."""

from __future__ import annotations

from functools import lru_cache

from opentelemetry import trace
from opentelemetry.trace import Tracer, TracerProvider

from agentlightning import semconv
from agentlightning.capture._convert import SCOPE


def own_tracer() -> Tracer:
    """That of the process's present tracer provider."""
    return _of(trace.get_tracer_provider())


@lru_cache(maxsize=2)  # the SDK's `get_tracer` changes the process's warning filters at each call
def _of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer(SCOPE, schema_url=semconv.SCHEMA_URL)
