"""The OpenTelemetry instrumentor of Agent Framework, which makes spans itself: they are read, and made complete."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Final

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import Tracer, TracerProvider

from lightning_adapter_openai.patches import replace, wrap

_DEPENDENCIES: Final = ("agent-framework-core >= 1.23, < 2",)


class AgentFrameworkInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Leads the framework's own spans to a tracer provider, with their content inside of rollouts.

    A model call that an SDK's adapter records inside of a rollout gets no span of the framework: the SDK's one says
    what was sent, and is the one the gateway's belongs to.
    """

    _undo: ExitStack

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of the framework that it knows."""
        return _DEPENDENCIES

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        from agent_framework import RawAgent, observability

        from lightning_adapter_agent_framework import _chat, _settings, _tunables

        undo = ExitStack()
        settings = observability.OBSERVABILITY_SETTINGS
        plain = type(settings)
        settings.__class__ = _settings.RolloutSettings
        undo.callback(setattr, settings, "__class__", plain)
        replace(undo, observability, "get_tracer", _tracers(observability.get_tracer, tracer_provider))
        wrap(undo, observability.ChatTelemetryLayer, "get_response", _chat.get_response)
        wrap(undo, observability.AgentTelemetryLayer, "run", _tunables.run)
        wrap(undo, RawAgent, "run", _tunables.run)
        self._undo = undo

    def _uninstrument(self, **_: object) -> None:
        self._undo.close()


def _tracers(original: Callable[..., Tracer], provider: TracerProvider | None) -> Callable[..., Tracer]:
    """The framework's `get_tracer`, which takes no provider."""
    from lightning_adapter_agent_framework import _chat

    def get_tracer(*args: str, **kwargs: object) -> Tracer:
        if _chat.step_back():
            return trace.NoOpTracer()
        tracer = original(*args, **kwargs)
        if provider is None:
            return tracer
        names = ("instrumenting_module_name", "instrumenting_library_version")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        given.setdefault("instrumenting_module_name", "agent_framework")
        return provider.get_tracer(**given)  # type: ignore[arg-type]

    return get_tracer
