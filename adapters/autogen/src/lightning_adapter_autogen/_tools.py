"""Uses of tools: the framework's own spans, with the arguments and results that it leaves out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

from autogen_core import FunctionCall
from autogen_core.models import FunctionExecutionResult
from autogen_core.tools import BaseTool
from opentelemetry.trace import Span, Status, StatusCode

from agentlightning import semconv
from agentlightning.types import Json
from lightning_adapter_autogen._spans import own_tracer
from lightning_adapter_autogen._tool_use import ToolUse, expected, pending

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]
_Tool = BaseTool[Any, Any]


async def run_json(
    method: Callable[..., Awaitable[object]], tool: _Tool, args: _Args, kwargs: _Kwargs
) -> object:
    """Wraps `BaseTool.run_json`."""
    if expected() is not None:
        return await method(*args, **kwargs)
    use = ToolUse(_of(args, kwargs))
    token = pending.set(use)
    try:
        value = await method(*args, **kwargs)
        use.returned(lambda: tool.return_value_as_string(value))
        return value
    finally:
        pending.reset(token)
        use.end()


def run_json_stream(
    method: Callable[..., Any], tool: _Tool, args: _Args, kwargs: _Kwargs
) -> AsyncIterator[object]:
    """Wraps `BaseStreamTool.run_json_stream`."""
    if expected() is not None:
        return cast("AsyncIterator[object]", method(*args, **kwargs))
    return _streamed(method, tool, args, kwargs)


async def _streamed(
    method: Callable[..., Any], tool: _Tool, args: _Args, kwargs: _Kwargs
) -> AsyncIterator[object]:
    use = ToolUse(_of(args, kwargs))
    value: object = None
    async with aclosing(method(*args, **kwargs)) as values:
        try:
            pending.set(use)
            async for value in values:
                yield value
            use.returned(lambda: tool.return_value_as_string(value))
        finally:
            use.end()


async def execute_tool_call(
    method: Callable[..., Awaitable[tuple[object, FunctionExecutionResult]]],
    _: object,
    args: _Args,
    kwargs: _Kwargs,
) -> object:
    """Wraps what an assistant does with a tool call: also tools of servers and handoffs go through it."""
    call = kwargs["tool_call"]
    use = ToolUse(call.arguments)
    begin = time.time_ns()
    token = pending.set(use)
    try:
        found = await method(*args, **kwargs)
        if use.span is None:  # bad arguments, a tool that does not exist, or a workbench without spans
            use.started(_late_span(call, begin))
        result = found[1]
        use.returned(lambda: result.content)
        if result.is_error and use.span is not None:
            use.span.set_status(Status(StatusCode.ERROR, result.content))
        return found
    finally:
        pending.reset(token)
        use.end()


def _late_span(call: FunctionCall, begin: int) -> Span:
    attributes = {
        semconv.OPERATION: semconv.OPERATION_TOOL,
        semconv.TOOL_NAME: call.name,
        semconv.TOOL_CALL_ID: call.id,
    }
    name = f"{semconv.OPERATION_TOOL} {call.name}"
    return own_tracer().start_span(name, attributes=attributes, start_time=begin)


def _of(args: _Args, kwargs: _Kwargs) -> Json:
    return dict(args[0] if args else kwargs["args"])
