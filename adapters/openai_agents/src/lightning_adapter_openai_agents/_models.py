"""Models that do not ride on the OpenAI SDK: a span for each call, and their calls bound to the rollout's endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from functools import partial
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from agents import Model, ModelResponse, OpenAIChatCompletionsModel, OpenAIResponsesModel
from openai import AsyncOpenAI
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer

from agentlightning import semconv
from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.capture.content import recorded
from agentlightning.capture.model_call import describe, ended_by, inside_call
from lightning_adapter_openai._responses import request_attributes, response_attributes
from lightning_adapter_openai.patches import each_subclass, wrap
from lightning_adapter_openai_agents._scope import SCOPE

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
        each_subclass(undo, Model, partial(self._wrap, undo))

    def _wrap(self, undo: ExitStack, kind: type) -> None:
        if issubclass(kind, _RIDING):
            return
        for name, wrapper in (("get_response", self._get), ("stream_response", self._stream)):
            if name in kind.__dict__:
                wrap(undo, kind, name, wrapper)

    async def _get(
        self, method: Callable[..., Awaitable[Any]], model: Model, args: _Args, kwargs: _Kwargs
    ) -> object:
        if inside_call(SCOPE):
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
        if inside_call(SCOPE):
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
        with ended_by(span):
            yield span

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
