"""Whether what was said is recorded, and as what."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Final

import msgspec
from opentelemetry.trace import Span

from agentlightning.capture._context import current_rollout
from agentlightning.capture.model_call import describe
from agentlightning.types import Json

__all__ = ["recorded", "say", "to_text", "wanted"]

_SWITCH: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_VALUES: Final = frozenset({"true", "span_only", "span_and_event"})


def wanted() -> bool:
    """Whether the user wants content outside of rollouts: the switch of every GenAI instrumentation."""
    return os.environ.get(_SWITCH, "").lower() in _VALUES


def recorded() -> bool:
    """Whether content is recorded here: always inside of rollouts, outside if the user wants it."""
    return current_rollout() is not None or wanted()


def say(span: Span, name: str, value: Callable[[], Json]) -> None:
    """Sets an attribute, if the span is recorded and so is content. What fails in `value` is logged, not raised."""

    def attribute() -> dict[str, str]:
        found = value()
        return {name: found if isinstance(found, str) else to_text(found)}

    if span.is_recording() and recorded():
        describe(span, attribute)


def to_text(value: object, *, plain: Callable[[object], object] = repr) -> str:
    """A value as JSON text; what JSON cannot express is described rather than refused.

    Args:
        value: Anything.
        plain: Makes data, or a text, of objects that JSON has no form for.

    Raises:
        ValueError: The value has itself inside.
    """
    try:
        return msgspec.json.encode(value, enc_hook=plain).decode()
    except (TypeError, ValueError):
        return json.dumps(value, default=repr, skipkeys=True)
