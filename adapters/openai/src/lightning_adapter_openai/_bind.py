"""Points a client's calls at the endpoint of the current rollout; the client itself stays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakKeyDictionary

import openai
from opentelemetry.trace import Span

from agentlightning.capture import Endpoint, RolloutContext
from agentlightning.capture.http import Pools, bound_headers, trusted

if TYPE_CHECKING:
    from lightning_adapter_openai._api import Client


HttpPools = Pools[openai.DefaultHttpxClient, openai.DefaultAsyncHttpxClient]


def new_pools() -> HttpPools:
    """Connections to endpoints, past the proxies of the environment."""
    sync, asynchronous = openai.DefaultHttpxClient, openai.DefaultAsyncHttpxClient
    return Pools(
        lambda: sync(trust_env=False, verify=trusted(sync)),
        lambda: asynchronous(trust_env=False, verify=trusted(asynchronous)),
    )


class Bindings:
    """Twins of the process's clients that talk to endpoints: one for each client and rollout, gone with either."""

    def __init__(self, pools: HttpPools) -> None:
        self._pools = pools
        self._bound: WeakKeyDictionary[RolloutContext, WeakKeyDictionary[Client, Client]] = (
            WeakKeyDictionary()
        )

    def twin(self, client: Client, context: RolloutContext, endpoint: Endpoint) -> Client:
        """The client's twin in this rollout."""
        clients = self._bound.get(context)
        if clients is None:
            clients = self._bound.setdefault(context, WeakKeyDictionary())
        bound = clients.get(client)
        if bound is None:
            bound = clients[client] = self._twin(client, endpoint)
        return bound

    def _twin(self, client: Client, endpoint: Endpoint) -> Client:
        """A plain client with the client's time limit and retries, and nothing else of it.

        `with_options` would keep its headers, its query, its provider's URLs and its transport, each of which may
        carry a secret or lead elsewhere; and it cannot copy subclasses with a constructor of their own.
        """
        twin: Client
        if isinstance(client, openai.AsyncOpenAI):
            twin = openai.AsyncOpenAI(
                base_url=endpoint.base_url,
                api_key=endpoint.api_key,
                http_client=self._pools.of_loop(),
                timeout=client.timeout,
                max_retries=client.max_retries,
            )
        else:
            twin = openai.OpenAI(
                base_url=endpoint.base_url,
                api_key=endpoint.api_key,
                http_client=self._pools.of_threads(),
                timeout=client.timeout,
                max_retries=client.max_retries,
            )
        twin.organization = twin.project = None
        twin._custom_headers = {}  # OPENAI_CUSTOM_HEADERS
        return twin


def bound_request(request: Mapping[str, object], endpoint: Endpoint, *, parent: Span) -> dict[str, object]:
    """The request as it goes to the endpoint: its key, its model, and the span that the gateway's belongs to."""
    headers = bound_headers(request.get("extra_headers"), endpoint, span_context=parent.get_span_context())
    return {**request, "extra_headers": headers}


def without_key(options: Mapping[str, object]) -> bool:
    """Whether a client constructed with these options would be refused for want of a key."""
    given = ("api_key", "admin_api_key", "workload_identity", "provider")
    if any(options.get(name) is not None for name in given) or options.get("_enforce_credentials") is False:
        return False
    return not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_ADMIN_KEY"))


def late_key() -> str:
    """The key of a client that was constructed without one, asked for when it is used outside of a rollout."""
    key = openai.api_key or os.environ.get("OPENAI_API_KEY")
    return key or _refuse()


async def late_key_async() -> str:
    """`late_key` for async clients."""
    return late_key()


def _refuse() -> NoReturn:
    raise openai.OpenAIError(
        "Missing credentials: this client was constructed without a key, which only works inside of a rollout "
        "whose model is served by an engine or an upstream. Pass an `api_key` or set the `OPENAI_API_KEY` environment "
        "variable."
    )
