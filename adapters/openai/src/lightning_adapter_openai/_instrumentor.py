"""The OpenTelemetry instrumentor of the OpenAI SDK."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv
from agentlightning.capture.content import wanted
from agentlightning.capture.instrumentations import is_wrapped
from lightning_adapter_openai.patches import wrap

if TYPE_CHECKING:
    from lightning_adapter_openai._api import Api, Resource
    from lightning_adapter_openai._bind import HttpPools
    from lightning_adapter_openai._calls import Calls

SCOPE: Final = "lightning_adapter_openai"
_Method = Callable[..., object]


class OpenAIInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Records calls of models as spans, and points them at the endpoint of the current rollout."""

    _undo: ExitStack
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
            is_wrapped(owner.__dict__.get(name))
            for owner, name in (
                (chat.Completions, "create"),
                (chat.AsyncCompletions, "create"),
                (openai.OpenAI, "request"),
                (openai.AsyncOpenAI, "request"),
            )
        )
        self._pools = (
            self._pools or new_pools()
        )  # connections outlive instrumentations: an event loop has one pool
        calls = Calls(tracer=None if observed else tracer, content=wanted(), pools=self._pools)
        methods: list[tuple[Api, type, type, str]] = [
            (_api.CHAT, chat.Completions, chat.AsyncCompletions, "create"),
            (_api.CHAT, chat.Completions, chat.AsyncCompletions, "parse"),
            (_api.RESPONSES, responses.Responses, responses.AsyncResponses, "create"),
            (_api.RESPONSES, responses.Responses, responses.AsyncResponses, "parse"),
            (_api.COMPLETIONS, completions.Completions, completions.AsyncCompletions, "create"),
            (_api.EMBEDDINGS, embeddings.Embeddings, embeddings.AsyncEmbeddings, "create"),
        ]
        undo = ExitStack()
        for api, sync, asynchronous, name in methods:
            shorten = (api, name) == (_api.CHAT, "create")
            for owner, wrapper in ((sync, _sync), (asynchronous, _async)):
                original = owner.__dict__[name]
                wrap(undo, owner, name, wrapper(original, calls=calls, api=api, shorten=shorten))
        wrap(undo, openai.OpenAI, "__init__", _constructor(late_key))
        wrap(undo, openai.AsyncOpenAI, "__init__", _constructor(late_key_async))
        self._undo = undo

    def _uninstrument(self, **_: object) -> None:
        self._undo.close()
        if self._pools is not None:
            self._pools.close()


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
