"""The gateway mounted in a server: `agl serve --upstream MODEL=URL [--observe]`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from agentlightning.apps import AppContext
from agentlightning.errors import ConfigError
from agentlightning.gateway import GatewayConfig, HttpUpstream
from lightning_plugin_gateway._asgi import Receive, Scope, Send
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._service import Service
from lightning_plugin_gateway.upstreams import HttpPolicy, Models


class MountOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the mounted gateway.

    Attributes:
        upstreams: By model name; the name `*` serves every other model.
        observe: Calls by the server's key that belong to no attempt are recorded as rollouts of their own.
        open: Everybody is admitted, as the server does with `--unsafe-no-auth`.
    """

    upstreams: Mapping[str, HttpUpstream]
    observe: bool = False
    open: bool = False


class MountedGateway:
    """A gateway that a server calls. It begins with its first request, and verifies keys itself."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._start: asyncio.Task[None] | None = None
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if self._closed:
            error = ApiError(503, "the gateway is shutting down", fault="cancelled", retry_after="1")
            await Exchange(scope, receive, send).reply(error.status, error.body, error.headers)
            return
        if self._start is None:
            self._start = asyncio.create_task(self._service.start())
        if not self._start.done():
            await asyncio.shield(self._start)
        await self._service.app(scope, receive, send)

    async def aclose(self) -> None:
        """Ends calls in flight, which are recorded as cancelled."""
        self._closed = True
        if self._start is not None:
            await self._start
            await self._service.stop()


def create_app(context: AppContext) -> MountedGateway:
    """Builds the mounted gateway.

    Raises:
        ConfigError: The options are wrong, or the variable that an upstream takes its key from is not set.
    """
    try:
        options = msgspec.convert(dict(context.options), MountOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the gateway's options cannot be used: {error}") from error
    models = Models(options.upstreams, policy=HttpPolicy())
    service = Service(
        store=context.store,
        models=models,
        upstreams=options.upstreams,
        config=GatewayConfig(observe=options.observe),
        keys=context.keys,
        everybody=options.open,
    )
    return MountedGateway(service)
