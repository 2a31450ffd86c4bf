"""One call of a model: bound to the rollout's endpoint, and recorded as a span."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import openai
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer

from agentlightning import semconv
from agentlightning.capture import current_rollout
from agentlightning.capture.model_call import ModelCall, describe
from lightning_adapter_openai._api import Api, Resource
from lightning_adapter_openai._bind import Bindings, HttpPools, bound_request
from lightning_adapter_openai._wire import shortened

_OTHERS: Final = re.compile(
    r"opentelemetry\.instrumentation\.(genai\.)?openai(_v2|\.|$)|openinference\.instrumentation\.openai(\.|$)"
)

_FRAMEWORKS: Final = frozenset({"agent_framework"})
"""Scopes of frameworks that make a span of their own around each call of the SDK, and spans of other things."""


class Calls:
    """What calls of the instrumented SDK go through.

    Args:
        tracer: Makes the spans; None only binds, because another instrumentation records the calls.
        content: Whether messages are recorded outside of rollouts; inside they always are.
        pools: Connections to endpoints.
    """

    def __init__(self, *, tracer: Tracer | None, content: bool, pools: HttpPools) -> None:
        self._tracer = tracer
        self._content = content
        self._bindings = Bindings(pools)

    def begin(
        self,
        method: Callable[..., object],
        *,
        api: Api,
        resource: Resource,
        rebind: Callable[[object], Callable[..., object]],
        request: Mapping[str, object],
        shorten: bool,
    ) -> Call:
        """Prepares a call.

        Args:
            method: The method as it was called.
            api: What it is a method of.
            resource: The `chat.completions` or the like that it was called on.
            rebind: The same method of another resource of its kind.
            request: Its arguments.
            shorten: It does nothing with messages and tools but send them.
        """
        context = current_rollout()
        request = dict(request)
        for name in ("messages", "input"):
            given = request.get(name)
            if not isinstance(given, str | list | tuple) and hasattr(given, "__next__"):
                request[name] = list(given)  # type: ignore[call-overload]
        endpoint = context.endpoint if context and api.bound else None
        if endpoint is not None and endpoint.model is not None:
            request["model"] = endpoint.model
        content = self._content or context is not None
        span = self._span(api, request, content=content)
        if context is not None and endpoint is not None:
            method = rebind(api.on(self._bindings.twin(resource._client, context, endpoint)))
            parent = span if span.get_span_context().is_valid else trace.get_current_span()
            request = bound_request(request, endpoint, parent=parent)
            if self._tracer is not None and shorten:
                request = shortened(request)
        return Call(method, request, api=api, span=span, content=content)

    def _span(self, api: Api, request: Mapping[str, object], *, content: bool) -> Span:
        if self._tracer is None or _is_of_call(trace.get_current_span(), api):
            return trace.INVALID_SPAN
        span = self._tracer.start_span(
            f"{api.operation} {request.get('model', '')}".rstrip(), kind=SpanKind.CLIENT
        )
        if span.is_recording():
            describe(span, lambda: api.asked(request, content))
        return span


def _is_of_call(span: Span, api: Api) -> bool:
    """Whether a span around a call is somebody else's of that very call."""
    scope = getattr(span, "instrumentation_scope", None)
    if scope is None:
        return False
    if scope.name in _FRAMEWORKS:
        attributes: Mapping[str, object] = getattr(span, "attributes", None) or {}
        return attributes.get(semconv.OPERATION) == api.operation
    return _OTHERS.match(scope.name) is not None


class Call(ModelCall):
    """A call under way.

    Attributes:
        method: What to call.
        request: With which arguments.
    """

    def __init__(
        self,
        method: Callable[..., object],
        request: Mapping[str, object],
        *,
        api: Api,
        span: Span,
        content: bool,
    ) -> None:
        super().__init__(
            span,
            describe_answer=lambda answer: api.answered(answer, content),
            fold=api.fold,
            failure=openai.OpenAIError,
        )
        self.method = method
        self.request = request
