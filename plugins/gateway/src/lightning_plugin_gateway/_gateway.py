"""The gateway inside this process: start, keys, pause, release, stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from agentlightning.errors import GatewayError
from agentlightning.gateway import AttemptGrant, GatewayConfig, Upstream
from agentlightning.store import Store
from lightning_plugin_gateway._app import GatewayApp
from lightning_plugin_gateway._attempts import Attempts
from lightning_plugin_gateway._chat import Chat
from lightning_plugin_gateway._gate import Gate
from lightning_plugin_gateway._http_model import HttpPolicy
from lightning_plugin_gateway._keys import KeyRing
from lightning_plugin_gateway._models import Models
from lightning_plugin_gateway._server import ServerThread

Result = TypeVar("Result")


class LocalGateway:
    """A gateway in a thread of this process. Safe to use from any thread's event loop.

    Attributes:
        base_url: `http://host:port`, known once started.
    """

    base_url: str

    def __init__(self, *, store: Store, models: Models, config: GatewayConfig) -> None:
        self._config = config
        self._models = models
        self._keys = KeyRing(ttl_s=config.key_ttl_s, clock=time.time)
        self._attempts = Attempts(ttl_s=config.key_ttl_s, clock=time.time)
        self._gate = Gate(timeout_s=config.pause_timeout_s)
        self._chat = Chat(store=store, models=models, attempts=self._attempts, gate=self._gate, config=config)
        self._server: ServerThread | None = None

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
        return self._keys.issue(grant)

    async def release(self, attempt_id: str) -> None:
        """Refuses calls to come and returns once those in flight are recorded."""
        if self._server:
            await self._there(self._server, self._attempts.release(attempt_id))

    @asynccontextmanager
    async def paused(self, *, drain_timeout_s: float = 600.0) -> AsyncIterator[None]:
        """Holds new calls, lets those in flight end, and lets all go on afterwards."""
        server = self._server
        if server is None:
            raise GatewayError("the gateway is not running; start it before pausing it")
        await self._there(server, self._gate.close(drain_timeout_s=drain_timeout_s))
        try:
            yield
        finally:
            if self._server is server:
                await self._there(server, self._reopen())

    async def _reopen(self) -> None:
        self._gate.open()

    async def _open(self) -> GatewayApp:
        await self._models.start()
        return GatewayApp(keys=self._keys, attempts=self._attempts, models=self._models, chat=self._chat)

    async def _close(self) -> None:
        self._chat.interrupt()
        await self._models.stop()

    @staticmethod
    async def _there(server: ServerThread, work: Coroutine[None, None, Result]) -> Result:
        return await asyncio.wrap_future(server.submit(work))


def create_gateway(
    *, store: Store, upstreams: Mapping[str, Upstream], config: GatewayConfig, http: HttpPolicy | None = None
) -> LocalGateway:
    """Builds a gateway.

    Args:
        store: Where calls are recorded.
        upstreams: By model name; the name `*` serves every other model.
        config: How it serves.
        http: How patient it is with upstreams behind a URL; None is the default patience.

    Raises:
        ConfigError: The variable that an upstream takes its key from is not set.
    """
    return LocalGateway(store=store, models=Models(upstreams, policy=http or HttpPolicy()), config=config)
