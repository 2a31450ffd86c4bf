"""The OpenTelemetry instrumentor of the OpenAI SDK."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv

if TYPE_CHECKING:
    from lightning_adapter_openai._api import Api, Resource
    from lightning_adapter_openai._bind import HttpPools
    from lightning_adapter_openai._calls import Calls

SCOPE: Final = "lightning_adapter_openai"
CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CONTENT_VALUES: Final = frozenset({"true", "span_only", "span_and_event"})
_INSTRUMENTATIONS: Final = ("opentelemetry.instrumentation.", "openinference.instrumentation.")
_Method = Callable[..., object]


class OpenAIInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Records calls of models as spans, and points them at the endpoint of the current rollout."""

    _patches: list[_Patch]
    _pools: HttpPools | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of the SDK that it knows."""
        return ("openai >= 2, < 4",)

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        import openai
        from openai.resources import chat, completions, embeddings, responses

        from lightning_adapter_openai import _api
        from lightning_adapter_openai._bind import late_key, late_key_async, new_pools
        from lightning_adapter_openai._calls import Calls

        tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
        observed = any(
            _instrumented(owner.__dict__.get(name))
            for owner, name in (
                (chat.Completions, "create"),
                (chat.AsyncCompletions, "create"),
                (openai.OpenAI, "request"),
                (openai.AsyncOpenAI, "request"),
            )
        )
        content = os.environ.get(CAPTURE_CONTENT, "").lower() in _CONTENT_VALUES
        self._pools = (
            self._pools or new_pools()
        )  # connections outlive instrumentations: an event loop has one pool
        calls = Calls(tracer=None if observed else tracer, content=content, pools=self._pools)
        methods: list[tuple[Api, type, type, str]] = [
            (_api.CHAT, chat.Completions, chat.AsyncCompletions, "create"),
            (_api.CHAT, chat.Completions, chat.AsyncCompletions, "parse"),
            (_api.RESPONSES, responses.Responses, responses.AsyncResponses, "create"),
            (_api.RESPONSES, responses.Responses, responses.AsyncResponses, "parse"),
            (_api.COMPLETIONS, completions.Completions, completions.AsyncCompletions, "create"),
            (_api.EMBEDDINGS, embeddings.Embeddings, embeddings.AsyncEmbeddings, "create"),
        ]
        self._patches = [
            _Patch(
                owner,
                name,
                partial(wrapper, calls=calls, api=api, shorten=(api, name) == (_api.CHAT, "create")),
            )
            for api, sync, asynchronous, name in methods
            for owner, wrapper in ((sync, _sync), (asynchronous, _async))
        ]
        self._patches += [
            _Patch(openai.OpenAI, "__init__", lambda _: _constructor(late_key)),
            _Patch(openai.AsyncOpenAI, "__init__", lambda _: _constructor(late_key_async)),
        ]

    def _uninstrument(self, **_: object) -> None:
        for patch in reversed(self._patches):
            patch.undo()
        if self._pools is not None:
            self._pools.close()


class _Patch:
    """A method of a class that is wrapped until `undo`."""

    def __init__(self, owner: type, name: str, wrapper: Callable[[_Method], _Method]) -> None:
        self._owner, self._name = owner, name
        self._original = owner.__dict__[name]
        self._active = True
        self._patched = wrapt.FunctionWrapper(
            self._original, wrapper(self._original), enabled=lambda: self._active
        )
        setattr(owner, name, self._patched)

    def undo(self) -> None:
        """Puts the original back; below somebody else's wrapper ours stays, and does nothing."""
        self._active = False
        if self._owner.__dict__.get(self._name) is self._patched:
            setattr(self._owner, self._name, self._original)


def _rebind(original: _Method, resource: object) -> _Method:
    return cast("_Method", original.__get__(resource, type(resource)))


def _sync(original: _Method, *, calls: Calls, api: Api, shorten: bool) -> _Method:
    def call(
        method: _Method, resource: Resource, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        running = calls.begin(
            method,
            api=api,
            resource=resource,
            rebind=lambda bound: _rebind(original, bound),
            request=kwargs,
            shorten=shorten,
        )
        with running:
            result = running.method(*args, **running.request)
        running.answered(result)
        return result

    return call


def _async(original: _Method, *, calls: Calls, api: Api, shorten: bool) -> _Method:
    async def call(
        method: _Method, resource: Resource, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        running = calls.begin(
            method,
            api=api,
            resource=resource,
            rebind=lambda bound: _rebind(original, bound),
            request=kwargs,
            shorten=shorten,
        )
        with running:
            result = await cast("Awaitable[object]", running.method(*args, **running.request))
        running.answered(result)
        return result

    return call


def _constructor(key: Callable[[], object]) -> _Method:
    """Lets clients be constructed without a key, as long as they are used inside of rollouts."""

    def construct(method: _Method, _: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        from lightning_adapter_openai._bind import without_key

        if without_key(kwargs):
            kwargs = {**kwargs, "api_key": key}
        return method(*args, **kwargs)

    return construct


def _instrumented(method: object) -> bool:
    """Whether an OpenTelemetry instrumentation of somebody else has wrapped it."""
    while isinstance(method, wrapt.FunctionWrapper):
        wrapper = getattr(method, "_self_wrapper", None)
        if str(getattr(wrapper, "__module__", "")).startswith(_INSTRUMENTATIONS):
            return True
        method = method.__wrapped__
    return False
