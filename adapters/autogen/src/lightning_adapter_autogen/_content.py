"""Whether what was said is recorded, and as what."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import msgspec
from opentelemetry.trace import Span

from agentlightning.capture import current_rollout
from agentlightning.capture.model_call import describe
from agentlightning.types import Json

SCOPE: Final = "lightning_adapter_autogen"
"""Instrumentation scope of the spans that the framework does not make itself."""

_CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CONTENT_VALUES: Final = frozenset({"true", "span_only", "span_and_event"})


def recorded() -> bool:
    """Always inside of rollouts; outside if the user wants it, as for every GenAI instrumentation."""
    wanted = os.environ.get(_CAPTURE_CONTENT, "").lower() in _CONTENT_VALUES
    return wanted or current_rollout() is not None


def say(span: Span, name: str, value: Callable[[], Json]) -> None:
    """Sets an attribute, if the span is recorded and so is content. What fails in `value` is logged, not raised."""

    def attribute() -> dict[str, str]:
        found = value()
        return {name: found if isinstance(found, str) else to_text(found)}

    if span.is_recording() and recorded():
        describe(span, attribute)


def to_text(value: Json) -> str:
    """A value as JSON text; what JSON cannot express is described rather than refused."""
    return msgspec.json.encode(value, enc_hook=repr).decode()
