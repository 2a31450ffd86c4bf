"""The OpenTelemetry instrumentor of CrewAI: its events become spans."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv
from agentlightning.capture import RolloutContext
from agentlightning.capture.content import wanted
from lightning_adapter_crewai._describe import Event
from lightning_adapter_crewai._spans import EventSpans
from lightning_adapter_openai.patches import wrap

SCOPE: Final = "lightning_adapter_crewai"


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
        from crewai.events.event_context import VALID_EVENT_PAIRS

        tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
        self._spans = EventSpans(tracer, content=wanted(), pairs=VALID_EVENT_PAIRS)
        self._undo = ExitStack()
        for name, wrapper in (("emit", _emit(self._spans)), ("aemit", _aemit(self._spans))):
            wrap(self._undo, CrewAIEventsBus, name, wrapper)

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
