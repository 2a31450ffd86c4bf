"""One call of a model: bound to the rollout's endpoint, and recorded as a span."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import Final

import openai
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from agentlightning import semconv
from agentlightning.capture import current_rollout
from agentlightning.capture.http import tap
from lightning_adapter_openai._api import Api, Resource
from lightning_adapter_openai._bind import Bindings, HttpPools, bound_request
from lightning_adapter_openai._messages import field
from lightning_adapter_openai._wire import shortened

_log = logging.getLogger("agentlightning.adapter.openai")
_OTHERS: Final = re.compile(
    r"opentelemetry\.instrumentation\.(genai\.)?openai(_v2|\.|$)|openinference\.instrumentation\.openai(\.|$)"
)


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
        scope = getattr(trace.get_current_span(), "instrumentation_scope", None)
        if self._tracer is None or (scope is not None and _OTHERS.match(scope.name)):
            return trace.INVALID_SPAN
        span = self._tracer.start_span(
            f"{api.operation} {request.get('model', '')}".rstrip(), kind=SpanKind.CLIENT
        )
        if span.is_recording():
            _describe(span, lambda: api.asked(request, content))
        return span


class Call:
    """A call under way; a context manager around its request."""

    def __init__(
        self,
        method: Callable[..., object],
        request: Mapping[str, object],
        *,
        api: Api,
        span: Span,
        content: bool,
    ) -> None:
        self.method = method
        self.request = request
        self._api = api
        self._span = span
        self._content = content

    def __enter__(self) -> None:
        if self._span is not trace.INVALID_SPAN:
            self._token = otel_context.attach(trace.set_span_in_context(self._span))

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._span is not trace.INVALID_SPAN:
            otel_context.detach(self._token)
            if error is not None:
                self._end(error)

    def answered(self, result: object) -> None:
        """Records what the method returned: an answer, or a response that is still to be read."""
        if not self._span.is_recording():
            self._span.end()
            return
        response = getattr(result, "response", None) or getattr(result, "http_response", None)
        if response is None:
            self._complete(result)
        elif response.is_closed:
            self._read(response.content, None)
        else:
            tap(response, self._read, failed=lambda data: bool(self._api.fold(data)[0].get("error")))

    def _read(self, data: bytes, error: BaseException | None) -> None:
        completion, complete = self._api.fold(data)
        failure = field(completion.get("error"), "message")
        if failure is not None and error is None:
            error = openai.OpenAIError(str(failure))
        if not complete and error is None:
            self._span.set_attribute(semconv.CANCELLED, True)
        self._complete(completion, error)

    def _complete(self, completion: object, error: BaseException | None = None) -> None:
        _describe(self._span, lambda: self._api.answered(completion, self._content))
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
            self._span.set_attribute(semconv.CANCELLED, True)
        elif error is not None:
            self._span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
            self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        self._span.end()


def _describe(span: Span, attributes: Callable[[], Mapping[str, object]]) -> None:
    """Capture never breaks a call: what cannot be described is left out, and said in the log."""
    try:
        span.set_attributes(attributes())  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - a border to whatever objects an agent hands over
        _log.exception("a call could not be described")
