"""One request of a client: bound to the rollout's endpoint, and recorded as a span."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import anthropic
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer

from agentlightning.capture import Endpoint, RolloutContext, current_rollout
from agentlightning.capture.http import Pools, bound_headers, trusted
from agentlightning.capture.model_call import ModelCall, describe
from lightning_adapter_anthropic._messages import fold, request_attributes, response_attributes

Client = anthropic.Anthropic | anthropic.AsyncAnthropic
HttpPools = Pools[anthropic.DefaultHttpxClient, anthropic.DefaultAsyncHttpxClient]
Options = Any
"""The SDK's `FinalRequestOptions`, which it does not export."""
_OURS: Final = re.compile(r"/v1/messages(/count_tokens)?(\?.*)?$")
_UNTRACED: Final[dict[str, bool]] = (
    {"open_telemetry": False}
    if "open_telemetry" in inspect.signature(anthropic.Anthropic.__init__).parameters
    else {}
)
"""Newer releases of the SDK make spans of their own, where a call has ours already."""
_COUNTING: Final = "/count_tokens"
_OTHERS: Final = re.compile(
    r"opentelemetry\.instrumentation\.(genai\.)?anthropic(\.|$)|openinference\.instrumentation\.anthropic(\.|$)"
)


class Call(ModelCall):
    """A request under way.

    Attributes:
        client: Whose `request` to call.
        options: With which options.
    """

    def __init__(self, client: Client, options: Options, *, span: Span, content: bool) -> None:
        super().__init__(
            span,
            describe_answer=partial(response_attributes, content=content),
            fold=fold,
            failure=anthropic.AnthropicError,
        )
        self.client = client
        self.options = options


class Calls:
    """What requests of the instrumented SDK go through.

    Args:
        tracer: Makes the spans; None only binds, because another instrumentation records the calls.
        content: Whether messages are recorded outside of rollouts; inside they always are.
    """

    def __init__(self, *, tracer: Tracer | None, content: bool) -> None:
        self._tracer = tracer
        self._content = content
        self._pools = new_pools()
        self._twins: WeakKeyDictionary[RolloutContext, WeakKeyDictionary[Client, Client]] = (
            WeakKeyDictionary()
        )

    def begin(self, client: Client, options: Options) -> Call | None:
        """Prepares a request; None if it is none for a model."""
        if str(options.method).upper() != "POST" or not _OURS.match(str(options.url)):
            return None
        context = current_rollout()
        endpoint = context.endpoint if context else None
        body = dict(options.json_data) if isinstance(options.json_data, Mapping) else {}
        if endpoint is not None and endpoint.model is not None:
            body["model"] = endpoint.model
        content = self._content or context is not None
        counting = _COUNTING in str(options.url)
        span = trace.INVALID_SPAN if counting else self._span(body, content=content)
        if context is not None and endpoint is not None:
            parent = span if span.get_span_context().is_valid else trace.get_current_span()
            given = {name: value for name, value in _headers(options).items() if isinstance(value, str)}
            headers = bound_headers(given, endpoint, span_context=parent.get_span_context())
            options = options.model_copy(update={"json_data": body, "headers": headers})
            client = self._twin(client, context, endpoint)
        return Call(client, options, span=span, content=content)

    def close(self) -> None:
        """Lets go of connections."""
        self._pools.close()

    def _span(self, body: Mapping[str, object], *, content: bool) -> Span:
        scope = getattr(trace.get_current_span(), "instrumentation_scope", None)
        if self._tracer is None or (scope is not None and _OTHERS.match(scope.name)):
            return trace.INVALID_SPAN
        span = self._tracer.start_span(f"chat {body.get('model', '')}".rstrip(), kind=SpanKind.CLIENT)
        if span.is_recording():
            describe(span, lambda: request_attributes(body, content=content))
        return span

    def _twin(self, client: Client, context: RolloutContext, endpoint: Endpoint) -> Client:
        clients = self._twins.get(context)
        if clients is None:
            clients = self._twins.setdefault(context, WeakKeyDictionary())
        twin = clients.get(client)
        if twin is None:
            twin = clients[client] = self._new_twin(client, endpoint)
        return twin

    def _new_twin(self, client: Client, endpoint: Endpoint) -> Client:
        """A plain client with the client's time limit and retries, and nothing else of it."""
        base_url = endpoint.base_url.rstrip("/").removesuffix("/v1")  # the SDK's paths begin with it
        make: Callable[..., Client] = anthropic.Anthropic
        pool: object
        if isinstance(client, anthropic.AsyncAnthropic):
            make, pool = anthropic.AsyncAnthropic, self._pools.of_loop()
        else:
            pool = self._pools.of_threads()
        twin = make(
            base_url=base_url,
            api_key=endpoint.api_key,
            http_client=pool,
            timeout=client.timeout,
            max_retries=client.max_retries,
            **_UNTRACED,
        )
        twin._custom_headers = {}  # ANTHROPIC_CUSTOM_HEADERS
        return twin


def new_pools() -> HttpPools:
    """Connections to endpoints, past the proxies of the environment."""
    sync, asynchronous = anthropic.DefaultHttpxClient, anthropic.DefaultAsyncHttpxClient
    return Pools(
        lambda: sync(trust_env=False, verify=trusted(sync)),
        lambda: asynchronous(trust_env=False, verify=trusted(asynchronous)),
    )


def _headers(options: Options) -> Mapping[str, object]:
    return options.headers if isinstance(options.headers, Mapping) else {}
