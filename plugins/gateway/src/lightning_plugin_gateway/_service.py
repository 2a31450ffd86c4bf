"""All parts of a gateway, put together: the same in this process and mounted in a server."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Mapping
from typing import Final

from agentlightning.credentials import KeyRing
from agentlightning.errors import ConfigError
from agentlightning.gateway import GatewayConfig, HttpUpstream, Upstream
from agentlightning.store import Store
from lightning_plugin_gateway._alarms import Alarms
from lightning_plugin_gateway._app import GatewayApp
from lightning_plugin_gateway._attempts import Attempts
from lightning_plugin_gateway._attribution import Attribution
from lightning_plugin_gateway._call import Call
from lightning_plugin_gateway._calls import Calls
from lightning_plugin_gateway._canary import Canary
from lightning_plugin_gateway._counting import Counting
from lightning_plugin_gateway._gate import Gate
from lightning_plugin_gateway._live import LiveRecorder
from lightning_plugin_gateway._overrides import Resources
from lightning_plugin_gateway._preparing import Preparing
from lightning_plugin_gateway._recorder import Recorder
from lightning_plugin_gateway.turns import TurnBuilder
from lightning_plugin_gateway.upstreams import Models

_log = logging.getLogger(__name__)
_END_S: Final = 5.0


class Service:
    """A gateway without a port. Its methods are for the event loop that serves it.

    Attributes:
        attempts: What is known of each attempt.
        attribution: Issues keys.
        gate: Holds calls while weights change.
        live: Records live traffic.
        app: The application; serve it until `stop`.
        canary: Asked around changes of weights.
    """

    def __init__(
        self,
        *,
        store: Store,
        models: Models,
        upstreams: Mapping[str, Upstream],
        config: GatewayConfig,
        keys: KeyRing,
        everybody: bool = False,
    ) -> None:
        self._models = models
        self.attempts = Attempts(ttl_s=config.key_ttl_s, clock=time.time)
        self.attribution = Attribution(
            keys=keys,
            store=store,
            observe=config.observe,
            everybody=everybody,
            ttl_s=config.key_ttl_s,
            clock=time.time,
        )
        self.gate = Gate(timeout_s=config.pause_timeout_s)
        self.live = LiveRecorder(store)
        self._turns = TurnBuilder(upstreams)
        active: set[Call] = set()
        alarms = Alarms()
        resources = Resources(store)
        self._recorder = Recorder(store, late=self.attempts.refuse, in_flight=active.__len__)
        self._calls = Calls(
            store=store,
            preparing=Preparing(
                store=store, models=models, config=config, turns=self._turns, resources=resources
            ),
            gate=self.gate,
            config=config,
            recorder=self._recorder,
            live=self.live,
            turns=self._turns,
            active=active,
            alarms=alarms,
            prices={
                name: upstream.price
                for name, upstream in upstreams.items()
                if isinstance(upstream, HttpUpstream) and upstream.price
            },
        )
        self.canary = Canary(models.all, gate=self.gate)
        self.app = GatewayApp(
            attribution=self.attribution,
            attempts=self.attempts,
            models=models,
            calls=self._calls,
            counting=Counting(models=models, gate=self.gate, config=config, resources=resources),
            alarms=alarms,
        )

    async def release(self, attempt_id: str) -> None:
        """Refuses calls to come and returns when those in flight are recorded."""
        await self.attempts.release(attempt_id)
        self._turns.forget(attempt_id)

    async def stop(self) -> None:
        """Ends calls in flight, which are recorded as cancelled, and closes connections."""
        try:
            async with asyncio.timeout(_END_S):
                await self._calls.end()
        except TimeoutError:
            _log.warning("calls were still in flight %s s after they were cancelled", _END_S)
        await self._recorder.stop()
        await self.live.stop()
        await self._turns.close()
        await self._models.stop()


def own_keys() -> KeyRing:
    """Keys of the secret in `AGL_KEY`, so that they outlive this process; else of one that does not.

    Raises:
        ConfigError: The secret is too short to be one.
    """
    try:
        return KeyRing(os.environ.get("AGL_KEY", "").strip() or secrets.token_urlsafe(32))
    except ValueError as error:
        raise ConfigError(f"AGL_KEY cannot be used: {error}") from error
