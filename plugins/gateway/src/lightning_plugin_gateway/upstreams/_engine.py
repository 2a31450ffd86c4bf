"""An engine: called in process, or at its servers while it has some."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import cast

from agentlightning.engine import ChatChunk, InferenceEngine
from agentlightning.errors import ConfigError, EngineError
from agentlightning.gateway import HttpUpstream
from lightning_plugin_gateway._errors import ApiError, bad_request
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams._faults import late_error
from lightning_plugin_gateway.upstreams._http import HttpModel
from lightning_plugin_gateway.upstreams._model import CallRoute
from lightning_plugin_gateway.upstreams._policy import HttpPolicy
from lightning_plugin_gateway.upstreams._status import ModelStatus

_log = logging.getLogger(__name__)
_IN_PROCESS = frozenset({"chat"})


class EngineModel:
    """Calls one engine. Its servers may come and go: they are looked up for each call."""

    provider = "agentlightning"
    token_ids = True
    is_engine = True

    def __init__(self, engine: InferenceEngine, *, policy: HttpPolicy) -> None:
        self._engine = engine
        self._policy = policy
        self._calls = self._failures = self._in_flight = 0
        self._remote: HttpModel | None = None
        self._endpoints: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the engine serves."""
        return self._engine.model

    @property
    def wires(self) -> frozenset[str]:
        """Chat completions in process, more at servers."""
        remote = self._servers()
        return remote.wires if remote else _IN_PROCESS

    @property
    def version(self) -> int:
        """What the engine samples from now."""
        return self._engine.version

    async def call(self, wire: str, request: Body, *, route: CallRoute) -> Body:
        """A whole answer. Raises `ApiError`."""
        if remote := self._servers():
            return await remote.call(wire, request, route=route)
        async with self._calling(wire):
            async with asyncio.timeout(_left_s(route)):
                return await self._engine.chat(request)

    async def stream(self, wire: str, request: Body, *, route: CallRoute) -> AsyncGenerator[Body]:
        """The chunks of an answer. Raises `ApiError`."""
        if remote := self._servers():
            async with aclosing(remote.stream(wire, request, route=route)) as events:
                async for event in events:
                    yield event
            return
        async with self._calling(wire):
            # Engines write their streams as async generators; closing them ends the generation.
            chunks = cast("AsyncGenerator[ChatChunk]", self._engine.stream(request))
            async with aclosing(chunks):
                while True:
                    async with asyncio.timeout(_left_s(route)):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        return
                    yield chunk

    def status(self) -> ModelStatus:
        """How it fares."""
        told = self._remote.status() if self._remote else ModelStatus(calls=0, failures=0)
        return ModelStatus(
            calls=told.calls + self._calls,
            failures=told.failures + self._failures,
            retries=told.retries,
            in_flight=told.in_flight + self._in_flight,
            waiting=told.waiting,
            open_breakers=told.open_breakers,
            servers=told.servers,
        )

    async def stop(self) -> None:
        """Closes connections; the engine itself belongs to others."""
        if self._remote:
            await self._remote.stop()

    def _servers(self) -> HttpModel | None:
        endpoints = tuple(self._engine.endpoints)
        if not endpoints:
            return None
        if self._remote is None:
            first, *others = endpoints
            upstream = HttpUpstream(base_url=first, replicas=tuple(others), model=self._engine.model)
            self._remote = HttpModel(upstream, policy=self._policy)
        elif endpoints != self._endpoints:
            self._remote.assign(endpoints)
        self._endpoints = endpoints
        return self._remote

    @asynccontextmanager
    async def _calling(self, wire: str) -> AsyncIterator[None]:
        if wire not in _IN_PROCESS:
            raise ValueError(f"an engine in this process speaks 'chat', not {wire!r}; translate the request")
        self._calls += 1
        self._in_flight += 1
        try:
            yield
        except Exception as error:
            self._failures += 1
            raise _told(error) from error
        finally:
            self._in_flight -= 1


def _left_s(route: CallRoute) -> float | None:
    return None if route.deadline is None else route.deadline - time.monotonic()


def _told(error: Exception) -> ApiError:
    if isinstance(error, ConfigError):
        return bad_request(f"the engine cannot honour this request: {error}")
    if isinstance(error, TimeoutError) and not isinstance(error, EngineError):
        return late_error()
    if not isinstance(error, EngineError):
        _log.error("the engine raised %s", type(error).__name__, exc_info=error)
        return ApiError(
            502, f"the engine failed with {type(error).__name__}; see its log", fault="engine_error"
        )
    return ApiError(502, f"the engine failed: {error}", fault="engine_error")
