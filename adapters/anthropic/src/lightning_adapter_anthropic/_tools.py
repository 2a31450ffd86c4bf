"""Spans of tools: functions that the SDK's tool runner calls, or the agent by `tool.call`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.trace import Span, Tracer

from agentlightning import semconv
from agentlightning.capture.content import say
from agentlightning.capture.model_call import ended_by
from lightning_adapter_anthropic._messages import plain_parts

_SDK: Final = "com.anthropic.sdk.python"
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


class Tools:
    """What calls of tools go through.

    Args:
        tracer: Makes their spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def call(self, method: Callable[..., object], tool: object, args: _Args, kwargs: _Kwargs) -> object:
        """Wraps `BetaFunctionTool.call`."""
        with self._use(tool, args, kwargs) as span:
            result = method(*args, **kwargs)
            _returned(span, result)
            return result

    async def call_async(
        self, method: Callable[..., object], tool: object, args: _Args, kwargs: _Kwargs
    ) -> object:
        """Wraps `BetaAsyncFunctionTool.call`."""
        with self._use(tool, args, kwargs) as span:
            result = await cast("Awaitable[object]", method(*args, **kwargs))
            _returned(span, result)
            return result

    @contextmanager
    def _use(self, tool: object, args: _Args, kwargs: _Kwargs) -> Iterator[Span]:
        """The span of a use: the SDK's own where it has one, which says nothing of arguments and results, else ours."""
        name = str(getattr(tool, "name", ""))
        given = args[0] if args else kwargs.get("input")
        span = trace.get_current_span()
        if _is_of(span, name):
            say(span, semconv.TOOL_CALL_ARGUMENTS, lambda: given)
            yield span
            return
        attributes = {semconv.OPERATION: semconv.OPERATION_TOOL, semconv.TOOL_NAME: name}
        span = self._tracer.start_span(f"{semconv.OPERATION_TOOL} {name}", attributes=attributes)
        say(span, semconv.TOOL_CALL_ARGUMENTS, lambda: given)
        with ended_by(span), trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span


def _is_of(span: Span, name: str) -> bool:
    scope = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    attributes: Mapping[str, object] = getattr(span, "attributes", None) or {}
    found = (attributes.get(semconv.OPERATION), attributes.get(semconv.TOOL_NAME))
    return str(scope).startswith(_SDK) and found == (semconv.OPERATION_TOOL, name)


def _returned(span: Span, result: object) -> None:
    """Records a text or blocks; what can only be read once is left to the SDK."""
    if isinstance(result, str | list | tuple):
        say(
            span, semconv.TOOL_CALL_RESULT, lambda: result if isinstance(result, str) else plain_parts(result)
        )
