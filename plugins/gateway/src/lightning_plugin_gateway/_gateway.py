"""The gateway inside this process: start, keys, pause, release, stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from agentlightning.credentials import KeyRing
from agentlightning.errors import GatewayError
from agentlightning.gateway import AttemptGrant, CanaryScore, GatewayConfig, Upstream
from agentlightning.store import Store
from lightning_plugin_gateway._app import GatewayApp
from lightning_plugin_gateway._live import LiveStatus
from lightning_plugin_gateway._server import ServerThread
from lightning_plugin_gateway._service import Service, own_keys
from lightning_plugin_gateway.upstreams import HttpPolicy, Models

Result = TypeVar("Result")


class LocalGateway:
    """A gateway in a thread of this process. Safe to use from any thread's event loop.

    Attributes:
        base_url: `http://host:port`, known once started.
    """

    base_url: str

    def __init__(
        self,
        *,
        store: Store,
        upstreams: Mapping[str, Upstream],
        config: GatewayConfig,
        http: HttpPolicy,
        keys: KeyRing,
    ) -> None:
        self._config = config
        models = Models(upstreams, policy=http)
        self._service = Service(store=store, models=models, upstreams=upstreams, config=config, keys=keys)
        self._server: ServerThread | None = None
        self._scoring: asyncio.Task[None] | None = None

    @property
    def canaries(self) -> tuple[CanaryScore, ...]:
        """What the canary found after each of the last publishes, oldest first."""
        return tuple(self._service.canary.scores)

    @property
    def live(self) -> LiveStatus:
        """What became of live calls so far."""
        return self._service.live.status

    async def start(self) -> None:
        """Binds and serves. Raises `GatewayError`."""
        if self._server:
            raise GatewayError(f"the gateway already serves at {self.base_url}; stop it first")
        config = self._config
        server = ServerThread(host=config.host, port=config.port, start=self._open, stop=self._close)
        host = f"[{config.host}]" if ":" in config.host else config.host
        await asyncio.wrap_future(server.start())
        self._server = server
        self.base_url = f"http://{host}:{server.port}"

    async def stop(self) -> None:
        """Ends calls in flight, which are recorded as cancelled, and unbinds."""
        server, self._server = self._server, None
        if server:
            await asyncio.to_thread(server.stop)

    def issue_key(self, grant: AttemptGrant) -> str:
        """A signed, expiring key for one attempt."""
        return self._service.attribution.issue(grant)

    async def release(self, attempt_id: str) -> None:
        """Refuses calls to come and returns once those in flight are recorded."""
        if self._server:
            await self._there(self._server, self._service.release(attempt_id))

    @asynccontextmanager
    async def paused(self, *, drain_timeout_s: float = 600.0) -> AsyncIterator[None]:
        """Holds new calls, lets those in flight end, and lets all go on afterwards."""
        server = self._server
        if server is None:
            raise GatewayError("the gateway is not running; start it before pausing it")
        await self._there(server, self._hold(drain_timeout_s))
        try:
            yield
        finally:
            if self._server is server:
                await self._there(server, self._reopen())

    async def _hold(self, drain_timeout_s: float) -> None:
        if self._service.gate.is_open:  # what the score after the change is compared with
            await self._service.canary.score()
        await self._service.gate.close(drain_timeout_s=drain_timeout_s)

    async def _reopen(self) -> None:
        self._service.gate.open()
        self._scoring = asyncio.create_task(self._service.canary.score())

    async def _open(self) -> GatewayApp:
        return self._service.app

    async def _close(self) -> None:
        if self._scoring:
            self._scoring.cancel()
            await asyncio.gather(self._scoring, return_exceptions=True)
        await self._service.stop()

    @staticmethod
    async def _there(server: ServerThread, work: Coroutine[None, None, Result]) -> Result:
        return await asyncio.wrap_future(server.submit(work))


def create_gateway(
    *,
    store: Store,
    upstreams: Mapping[str, Upstream],
    config: GatewayConfig,
    http: HttpPolicy | None = None,
    keys: KeyRing | None = None,
) -> LocalGateway:
    """Builds a gateway.

    Args:
        store: Where calls are recorded.
        upstreams: By model name; the name `*` serves every other model.
        config: How it serves.
        http: How patient it is with upstreams behind a URL; None is the default patience.
        keys: Issues and verifies keys; None are those of the secret in `AGL_KEY`, or of one that is made.

    Raises:
        ConfigError: The variable that an upstream takes its key from is not set, or AGL_KEY is too short.
    """
    return LocalGateway(
        store=store, upstreams=upstreams, config=config, http=http or HttpPolicy(), keys=keys or own_keys()
    )
