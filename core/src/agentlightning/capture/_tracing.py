"""Puts capture into the process's tracing: a span processor is added, nothing is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import trace

from agentlightning.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_MARK: Final = "_agl_processor"


def install_tracing(provider: TracerProvider | None = None) -> TracerProvider:
    """Adds capture to a tracer provider; calling it again does nothing.

    Args:
        provider: An SDK provider; None is the process's own, which is created if nobody has set one.

    Raises:
        ConfigError: Tracing is switched off, or the process's provider takes no span processors.
    """
    from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
    from opentelemetry.sdk.trace import TracerProvider

    from agentlightning.capture._processor import RolloutSpanProcessor

    found = provider or trace.get_tracer_provider()
    if isinstance(found, trace.ProxyTracerProvider):
        found = TracerProvider()
        trace.set_tracer_provider(found)
    if not isinstance(found, TracerProvider):
        raise ConfigError(
            f"capture needs an OpenTelemetry SDK TracerProvider, found {type(found).__name__!r}; "
            "set one from opentelemetry.sdk.trace, or none at all"
        )
    if isinstance(found.get_tracer("agentlightning"), trace.NoOpTracer):
        raise ConfigError(
            f"tracing is switched off by {OTEL_SDK_DISABLED}, but rollouts are captured as spans; unset it"
        )
    if getattr(found, _MARK, None) is None:
        processor = RolloutSpanProcessor()
        setattr(found, _MARK, processor)
        found.add_span_processor(processor)
    return found
