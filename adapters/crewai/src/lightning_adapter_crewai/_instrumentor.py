"""The OpenTelemetry instrumentor of CrewAI: its events become spans."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, Final, cast

import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv
from agentlightning.capture import RolloutContext
from lightning_adapter_crewai._describe import Event
from lightning_adapter_crewai._spans import EventSpans

SCOPE: Final = "lightning_adapter_crewai"
CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CONTENT_VALUES: Final = frozenset({"true", "span_only", "span_and_event"})


class CrewAIInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Records crews, tasks, agents, tools, flows and retrievals as spans.

    Handlers of CrewAI's event bus run in threads of its own, too late to make a span the current one where the event
    happened; so events are seen where they are emitted.
    """

    _undo: ExitStack
    _spans: EventSpans | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of the framework that it knows."""
        return ("crewai >= 1.15.30, < 2",)

    def close(self, context: RolloutContext) -> None:
        """Ends the spans of a rollout whose ends were not told, such as those of what was cancelled."""
        if self._spans is not None:
            self._spans.close(context)

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        from crewai.events.event_bus import CrewAIEventsBus

        tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
        content = os.environ.get(CAPTURE_CONTENT, "").lower() in _CONTENT_VALUES
        self._spans = EventSpans(tracer, content=content)
        self._undo = ExitStack()
        for name, wrapper in (("emit", _emit(self._spans)), ("aemit", _aemit(self._spans))):
            _wrap(self._undo, CrewAIEventsBus, name, wrapper)

    def _uninstrument(self, **_: object) -> None:
        self._undo.close()
        self._spans = None


_Wrapper = Callable[[Callable[..., object], object, tuple[Any, ...], Mapping[str, Any]], object]


def _emit(spans: EventSpans) -> _Wrapper:
    def emit(
        method: Callable[..., object], _: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> object:
        source, event = _given(*args, **kwargs)
        spans.before(source, event)
        result = method(*args, **kwargs)
        spans.after(event)
        return result

    return emit


def _aemit(spans: EventSpans) -> _Wrapper:
    async def aemit(
        method: Callable[..., object], _: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> object:
        source, event = _given(*args, **kwargs)
        spans.before(source, event)
        result = await cast("Awaitable[object]", method(*args, **kwargs))
        spans.after(event)
        return result

    return aemit


def _given(source: object, event: Event) -> tuple[object, Event]:
    return source, event


def _wrap(undo: ExitStack, owner: type, name: str, wrapper: _Wrapper) -> None:
    """Wraps a method of a class; below somebody else's wrapper ours stays in the end, and does nothing."""
    active = [True]
    original = owner.__dict__[name]
    patched = wrapt.FunctionWrapper(original, wrapper, enabled=lambda: bool(active))
    setattr(owner, name, patched)

    def put_back() -> None:
        active.clear()
        if owner.__dict__.get(name) is patched:
            setattr(owner, name, original)

    undo.callback(put_back)
