"""The OpenTelemetry instrumentor of the Anthropic SDK."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Final, cast

import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv
from agentlightning.capture.content import wanted
from agentlightning.capture.instrumentations import is_wrapped

if TYPE_CHECKING:
    from lightning_adapter_anthropic._calls import Calls, Client, Options

SCOPE: Final = "lightning_adapter_anthropic"


class AnthropicInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Records calls of models as spans, and points them at the endpoint of the current rollout.

    All of the SDK's ways to call a model, raw, streamed, parsed or beta, come to one method of its client. Functions
    that it calls as tools are spans, too.
    """

    _calls: Calls
    _patched: list[tuple[type, wrapt.FunctionWrapper[..., Any]]]
    _tools: list[tuple[type, object, object]]

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of the SDK that it knows."""
        return ("anthropic >= 1, < 3",)

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        import anthropic
        from anthropic.lib.tools import BetaAsyncFunctionTool, BetaFunctionTool
        from anthropic.resources.messages import AsyncMessages, Messages

        from lightning_adapter_anthropic._calls import Calls
        from lightning_adapter_anthropic._tools import Tools

        tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
        observed = any(is_wrapped(owner.__dict__.get("create")) for owner in (Messages, AsyncMessages))
        self._calls = calls = Calls(tracer=None if observed else tracer, content=wanted())
        self._patched = []
        for owner, wrapper in ((anthropic.Anthropic, _sync), (anthropic.AsyncAnthropic, _async)):
            patched = wrapt.FunctionWrapper(owner.request, wrapper(owner.request, calls))
            self._patched.append((owner, patched))
            owner.request = patched  # type: ignore[method-assign]
        self._tools = []
        tools = Tools(tracer)
        for kind, call in ((BetaFunctionTool, tools.call), (BetaAsyncFunctionTool, tools.call_async)):
            original = kind.__dict__["call"]
            replacement: Any = wrapt.FunctionWrapper(original, call)
            self._tools.append((kind, original, replacement))
            kind.call = replacement  # type: ignore[method-assign]

    def _uninstrument(self, **_: object) -> None:
        for owner, patched in self._patched:
            if owner.__dict__.get("request") is patched:
                delattr(owner, "request")  # it was inherited
        for kind, original, replacement in self._tools:
            if kind.__dict__.get("call") is replacement:
                kind.call = original  # type: ignore[attr-defined]
        self._calls.close()


def _sync(original: Callable[..., object], calls: Calls) -> Callable[..., object]:
    def request(
        method: Callable[..., object], client: Client, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        cast_to, options = _arguments(args, kwargs)
        call = calls.begin(client, options)
        if call is None:
            return method(*args, **kwargs)
        with call:
            result = original(call.client, cast_to, call.options, *args[2:], **_others(kwargs))
        call.answered(result)
        return result

    return request


def _async(original: Callable[..., object], calls: Calls) -> Callable[..., object]:
    async def request(
        method: Callable[..., object], client: Client, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        cast_to, options = _arguments(args, kwargs)
        call = calls.begin(client, options)
        if call is None:
            return await cast("Awaitable[object]", method(*args, **kwargs))
        with call:
            sending = original(call.client, cast_to, call.options, *args[2:], **_others(kwargs))
            result = await cast("Awaitable[object]", sending)
        call.answered(result)
        return result

    return request


def _arguments(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[object, Options]:
    given = dict(zip(("cast_to", "options"), args, strict=False)) | kwargs
    return given["cast_to"], given["options"]


def _others(kwargs: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in kwargs.items() if name not in ("cast_to", "options")}
