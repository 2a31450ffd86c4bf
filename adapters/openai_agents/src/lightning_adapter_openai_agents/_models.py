"""Models that do not ride on the OpenAI SDK: a span for each call, and their calls bound to the rollout's endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from agents import Model, ModelResponse, OpenAIChatCompletionsModel, OpenAIResponsesModel
from openai import AsyncOpenAI
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from agentlightning import semconv
from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.capture.model_call import describe
from lightning_adapter_openai._responses import request_attributes, response_attributes
from lightning_adapter_openai_agents._content import SCOPE, recorded
from lightning_adapter_openai_agents._patches import wrap

_RIDING: Final = (OpenAIChatCompletionsModel, OpenAIResponsesModel)
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


class Models:
    """What calls of such models go through.

    Args:
        tracer: Makes their spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._twins: WeakKeyDictionary[RolloutContext, dict[str, Model]] = WeakKeyDictionary()

    def wrap_all(self, undo: ExitStack) -> None:
        """Wraps every class of models, those that are still to be defined included."""
        for kind in list(_subclasses(Model)):
            self._wrap(undo, kind)

        def init_subclass(cls: type[Model], **kwargs: object) -> None:
            super(Model, cls).__init_subclass__(**kwargs)
            self._wrap(undo, cls)

        Model.__init_subclass__ = classmethod(init_subclass)  # type: ignore[assignment, arg-type]
        undo.callback(delattr, Model, "__init_subclass__")

    def _wrap(self, undo: ExitStack, kind: type) -> None:
        if issubclass(kind, _RIDING):
            return
        for name, wrapper in (("get_response", self._get), ("stream_response", self._stream)):
            if name in kind.__dict__:
                wrap(undo, kind, name, wrapper)

    async def _get(
        self, method: Callable[..., Awaitable[Any]], model: Model, args: _Args, kwargs: _Kwargs
    ) -> object:
        if _is_inside():
            return await method(*args, **kwargs)
        if twin := self._twin(model):
            return await twin.get_response(*args, **kwargs)
        with self._span(model, args, kwargs) as span, trace.use_span(span):
            response: ModelResponse = await method(*args, **kwargs)
            answer = {
                "id": response.response_id,
                "output": response.output,
                "usage": response.usage,
                "status": "completed",
            }
            describe(span, lambda: response_attributes(answer, recorded()))
            return response

    def _stream(
        self, method: Callable[..., Any], model: Model, args: _Args, kwargs: _Kwargs
    ) -> AsyncIterator[object]:
        if _is_inside():
            return cast("AsyncIterator[object]", method(*args, **kwargs))
        if twin := self._twin(model):
            return twin.stream_response(*args, **kwargs)
        return self._streamed(method, model, args, kwargs)

    async def _streamed(
        self, method: Callable[..., Any], model: Model, args: _Args, kwargs: _Kwargs
    ) -> AsyncIterator[object]:
        with self._span(model, args, kwargs, stream=True) as span:
            async with aclosing(method(*args, **kwargs)) as events:
                while True:
                    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                        event = await anext(events, None)
                    if event is None:
                        break
                    if getattr(event, "type", "") == "response.completed":
                        _describe_stream(span, event)
                    yield event

    @contextmanager
    def _span(self, model: Model, args: _Args, kwargs: _Kwargs, *, stream: bool = False) -> Iterator[Span]:
        name = str(getattr(model, "model", None) or type(model).__name__)
        span = self._tracer.start_span(f"{semconv.OPERATION_CHAT} {name}", kind=SpanKind.CLIENT)
        given = dict(zip(("instructions", "input"), args, strict=False))
        given |= {"instructions": kwargs.get("system_instructions", given.get("instructions"))}
        given |= {"input": kwargs.get("input", given.get("input")), "model": name, "stream": stream}
        if span.is_recording():
            describe(span, lambda: request_attributes(given, recorded()))
            span.set_attribute(semconv.PROVIDER, "openai_agents")
        try:
            yield span
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
                span.set_attribute(semconv.CANCELLED, True)
            else:
                span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            raise
        finally:
            span.end()

    def _twin(self, model: Model) -> Model | None:
        """The model that goes to the endpoint of the current rollout in this one's place, if it has to.

        A scripted model goes on answering by its script: there is no model.
        """
        context = current_rollout()
        if context is None or context.endpoint is None or type(model).__module__.startswith("agents.testing"):
            return None
        name = context.endpoint.model or getattr(model, "model", None)
        if not isinstance(name, str):
            return None
        twins = self._twins.setdefault(context, {})
        if name not in twins:
            client = AsyncOpenAI(base_url=context.endpoint.base_url, api_key=context.endpoint.api_key)
            twins[name] = OpenAIChatCompletionsModel(model=name, openai_client=client)
        return twins[name]


def _describe_stream(span: Span, event: Any) -> None:  # noqa: ANN401 - an event of the SDK
    describe(span, lambda: response_attributes(event.response, recorded()))


def _is_inside() -> bool:
    """Whether a class above has the span already."""
    span = trace.get_current_span()
    scope = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    attributes = getattr(span, "attributes", None) or {}
    return scope == SCOPE and attributes.get(semconv.OPERATION) == semconv.OPERATION_CHAT


def _subclasses(kind: type[object]) -> Iterator[type[object]]:
    for found in kind.__subclasses__():
        yield found
        yield from _subclasses(found)
