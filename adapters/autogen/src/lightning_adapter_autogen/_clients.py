"""Model clients that no SDK's adapter knows: a span for each call, and their calls bound to the rollout's endpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

from autogen_core.models import ChatCompletionClient, CreateResult
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer

from agentlightning import semconv
from agentlightning.capture import Endpoint, RolloutContext, current_rollout
from agentlightning.capture.content import recorded
from agentlightning.capture.instrumentations import at_work
from agentlightning.capture.model_call import describe, ended_by, inside_call
from lightning_adapter_autogen._messages import answered, asked, said
from lightning_adapter_autogen._scope import SCOPE
from lightning_adapter_openai.patches import each_subclass, wrap

_PASSING_ON: Final = frozenset({"ChatCompletionCache", "ChatCompletionClientRecorder"})
"""Clients that ask another client, whose call is the one that counts."""

_SDKS: Final = {
    "BaseOpenAIChatCompletionClient": ("lightning_adapter_openai", "OpenAIInstrumentor"),
    "BaseAnthropicChatCompletionClient": ("lightning_adapter_anthropic", "AnthropicInstrumentor"),
}
_OTHERS: Final = ("openinference.instrumentation.autogen", "opentelemetry.instrumentation.autogen")
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


class _Twin(NamedTuple):
    """A client, held so that its id stays its own, and the one that answers in its place."""

    client: ChatCompletionClient
    twin: ChatCompletionClient


class Clients:
    """What calls of model clients go through.

    Args:
        tracer: Makes their spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._twins: WeakKeyDictionary[RolloutContext, dict[int, _Twin]] = WeakKeyDictionary()

    def wrap_all(self, undo: ExitStack) -> None:
        """Wraps every class of model clients, those that are still to be defined included."""
        each_subclass(undo, ChatCompletionClient, partial(self._wrap, undo))

    def _wrap(self, undo: ExitStack, kind: type) -> None:
        for name, wrapper in (("create", self._create), ("create_stream", self._create_stream)):
            if name in kind.__dict__:
                wrap(undo, kind, name, wrapper)
        if kind.__name__ == "BaseOpenAIChatCompletionClient":
            kind._resolved_model = _ResolvedModel()  # type: ignore[attr-defined]
            undo.callback(delattr, kind, "_resolved_model")

    async def _create(
        self,
        method: Callable[..., Awaitable[Any]],
        client: ChatCompletionClient,
        args: _Args,
        kwargs: _Kwargs,
    ) -> object:
        if _recorded_elsewhere(client):
            return await method(*args, **kwargs)
        if twin := self._twin(client):
            return await twin.create(*args, **_understood(kwargs))
        with self._span(client, args, kwargs) as span, trace.use_span(span):
            result = await method(*args, **kwargs)
            _describe(span, result)
            return result

    def _create_stream(
        self, method: Callable[..., Any], client: ChatCompletionClient, args: _Args, kwargs: _Kwargs
    ) -> AsyncIterator[object]:
        if _recorded_elsewhere(client):
            return cast("AsyncIterator[object]", method(*args, **kwargs))
        if twin := self._twin(client):
            return twin.create_stream(*args, **_understood(kwargs))
        return self._streamed(method, client, args, kwargs)

    async def _streamed(
        self, method: Callable[..., Any], client: ChatCompletionClient, args: _Args, kwargs: _Kwargs
    ) -> AsyncIterator[object]:
        texts: list[str] = []
        with self._span(client, args, kwargs, stream=True) as span:
            try:
                async with aclosing(method(*args, **kwargs)) as chunks:
                    while (chunk := await _next(chunks, span)) is not None:
                        if isinstance(chunk, CreateResult):
                            texts.clear()
                            _describe(span, chunk)
                        elif isinstance(chunk, str):
                            texts.append(chunk)
                        yield chunk
            finally:
                if texts and recorded():
                    part = {"type": "text", "content": "".join(texts)}
                    span.set_attributes(said([part], reason=None))  # type: ignore[arg-type]

    @contextmanager
    def _span(
        self, client: ChatCompletionClient, args: _Args, kwargs: _Kwargs, *, stream: bool = False
    ) -> Iterator[Span]:
        model = model_of(client) or type(client).__name__
        span = self._tracer.start_span(f"{semconv.OPERATION_CHAT} {model}", kind=SpanKind.CLIENT)
        if span.is_recording():
            span.set_attributes(
                {
                    semconv.OPERATION: semconv.OPERATION_CHAT,
                    semconv.PROVIDER: "autogen",
                    semconv.REQUEST_MODEL: model,
                    semconv.REQUEST_STREAM: stream,
                }
            )
            if recorded():
                messages = args[0] if args else kwargs["messages"]
                describe(span, lambda: asked(messages, kwargs.get("tools") or ()))
        with ended_by(span):
            yield span

    def _twin(self, client: ChatCompletionClient) -> ChatCompletionClient | None:
        """The client that goes to the endpoint of the current rollout in this one's place, if it has to.

        A replayed conversation goes on being replayed: there is no model.
        """
        context = current_rollout()
        if context is None or context.endpoint is None or hasattr(client, "_current_index"):
            return None
        model = context.endpoint.model or model_of(client)
        if model is None:
            return None
        twins = self._twins.setdefault(context, {})
        if id(client) not in twins:
            twins[id(client)] = _Twin(client, _at(context.endpoint, client, model=model))
        return twins[id(client)].twin


class _ResolvedModel:
    """The model that a client of the framework expects in answers, about which it warns: none for bound calls."""

    def __get__(self, client: object, kind: type) -> object:
        context = current_rollout()
        bound = context is not None and context.endpoint is not None and context.endpoint.model is not None
        return None if bound or client is None else client.__dict__.get("_resolved_model")

    def __set__(self, client: object, model: str | None) -> None:
        client.__dict__["_resolved_model"] = model


def _describe(span: Span, result: CreateResult) -> None:
    describe(span, lambda: answered(result, content=recorded()))


async def _next(chunks: AsyncGenerator[object, None], span: Span) -> object:
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        return await anext(chunks, None)


def model_of(client: object) -> str | None:
    """The model that a client asks for, where it says so in the way of the framework's own."""
    arguments = getattr(client, "_create_args", None)
    found = arguments.get("model") if isinstance(arguments, dict) else getattr(client, "model", None)
    return found if isinstance(found, str) else None


def _recorded_elsewhere(client: ChatCompletionClient) -> bool:
    """Whether a call has its span from an SDK's adapter below, from a class above, or from somebody else."""
    names = {kind.__name__ for kind in type(client).__mro__}
    if names & _PASSING_ON:
        return True
    for name in names & _SDKS.keys():
        adapter, instrumentor = _SDKS[name]
        if at_work(adapter, instrumentor):
            return True
    scope = getattr(getattr(trace.get_current_span(), "instrumentation_scope", None), "name", "")
    return inside_call(SCOPE) or scope.startswith(_OTHERS)


def _at(endpoint: Endpoint, client: ChatCompletionClient, *, model: str) -> ChatCompletionClient:
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    return OpenAIChatCompletionClient(
        model=model, base_url=endpoint.base_url, api_key=endpoint.api_key, model_info=client.model_info
    )


def _understood(kwargs: _Kwargs) -> _Kwargs:
    """The arguments without settings of another API."""
    from autogen_ext.models.openai._openai_client import create_kwargs

    extra = kwargs.get("extra_create_args") or {}
    return {**kwargs, "extra_create_args": {name: extra[name] for name in extra.keys() & create_kwargs}}
