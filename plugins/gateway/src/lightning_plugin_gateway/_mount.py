"""The gateway mounted in a server: `agl serve --upstream MODEL=URL [--observe]`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agentlightning._settings import UnknownSetting, flatten, schema_of
from agentlightning.apps import AppContext
from agentlightning.errors import ConfigError
from agentlightning.gateway import GatewayConfig, HttpUpstream
from agentlightning.types import Json
from lightning_plugin_gateway._alarms import Alarms
from lightning_plugin_gateway._asgi import Receive, Scope, Send
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._metrics import metrics_text
from lightning_plugin_gateway._service import Service
from lightning_plugin_gateway.upstreams import HttpPolicy, Models

_THE_SERVERS = frozenset({"host", "observe", "port"})
"""Settings that options of the server's say."""


class MountSettings(GatewayConfig, frozen=True, kw_only=True):
    """What `--gateway-set` says.

    Attributes:
        http: Patience with upstreams behind a URL.
    """

    http: HttpPolicy = HttpPolicy()


class MountOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the mounted gateway.

    Attributes:
        upstreams: By model name; the name `*` serves every other model.
        observe: Calls by the server's key that belong to no attempt are recorded as rollouts of their own.
        open: Everybody is admitted, as the server does with `--unsafe-no-auth`.
        settings: Of `MountSettings`.
    """

    upstreams: Mapping[str, HttpUpstream]
    observe: bool = False
    open: bool = False
    settings: Mapping[str, Json] = {}


class MountedGateway:
    """A gateway that a server calls. It verifies keys itself."""

    def __init__(self, service: Service, models: Models) -> None:
        self._service = service
        self._models = models
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if self._closed:
            error = ApiError(503, "the gateway is shutting down", fault="cancelled", retry_after="1")
            exchange = Exchange(scope, receive, send, alarms=Alarms())
            await exchange.reply(error.status, error.body, error.headers)
            return
        await self._service.app(scope, receive, send)

    def metrics(self) -> str:
        """How its models and their servers fare, in Prometheus' text format."""
        return metrics_text(self._models.status(), live=self._service.live.status)

    async def aclose(self) -> None:
        """Ends calls in flight, which are recorded as cancelled."""
        self._closed = True
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
    settings = _settings(options.settings)
    models = Models(options.upstreams, policy=settings.http)
    service = Service(
        store=context.store,
        models=models,
        upstreams=options.upstreams,
        config=msgspec.structs.replace(settings, observe=options.observe),
        keys=context.keys,
        everybody=options.open,
    )
    return MountedGateway(service, models)


def _settings(given: Mapping[str, Json]) -> MountSettings:
    """Checked settings. Raises `ConfigError`; for one that there is not, it names the nearest."""
    for name in _THE_SERVERS & given.keys():
        raise ConfigError(f"the mounted gateway has no {name!r} of its own; say --{name} instead")
    try:
        for _ in flatten(schema_of(MountSettings), given):
            pass
        return msgspec.convert(dict(given), MountSettings)
    except UnknownSetting as error:
        raise ConfigError(f"--gateway-set: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"--gateway-set: {error}") from error
