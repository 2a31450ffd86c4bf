"""The use of a tool, known before the framework starts its span and after it would have ended it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from opentelemetry.trace import Span

from agentlightning import semconv
from agentlightning.capture.content import say
from agentlightning.types import Json

pending: ContextVar[ToolUse | None] = ContextVar("agl_autogen_tool_use", default=None)


class ToolUse:
    """The use of a tool, whose span the framework starts when it gets to it.

    Args:
        arguments: What the model passed, as data or as the text that it wrote.
    """

    def __init__(self, arguments: Json) -> None:
        self._arguments = arguments
        self.span: Span | None = None

    def started(self, span: Span) -> None:
        """Takes the span of this use; ending it is then up to `end`."""
        self.span = span
        say(span, semconv.TOOL_CALL_ARGUMENTS, lambda: self._arguments)

    def returned(self, result: Callable[[], Json]) -> None:
        """Records what came out."""
        if self.span is not None:
            say(self.span, semconv.TOOL_CALL_RESULT, result)

    def end(self) -> None:
        """Ends its span."""
        if self.span is not None:
            self.span.end()


def expected() -> ToolUse | None:
    """The use that is waiting for its span."""
    use = pending.get()
    return use if use is not None and use.span is None else None
