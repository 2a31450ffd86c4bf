"""The models behind a gateway: engines in this process, and servers behind a URL."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Protocol, cast

from agentlightning.engine import ChatChunk, InferenceEngine
from agentlightning.errors import ConfigError, EngineError
from agentlightning.gateway import AttemptGrant, HttpUpstream, Upstream
from lightning_plugin_gateway._errors import ApiError, bad_request
from lightning_plugin_gateway._http_model import HttpModel, HttpPolicy
from lightning_plugin_gateway._request import Body

_log = logging.getLogger(__name__)
ANY = "*"


class Model(Protocol):
    """What answers calls.

    Attributes:
        name: Name to ask it for; empty for the name that the client asked for.
        provider: Who serves it, for the record.
        token_ids: It understands `return_token_ids`.
        version: Policy version that it samples from now; -1 if unknown.
    """

    name: str
    provider: str
    token_ids: bool

    @property
    def version(self) -> int: ...

    async def chat(self, request: Body) -> Body:
        """A whole answer. Raises `ApiError`."""
        ...

    def stream(self, request: Body) -> AsyncGenerator[Body]:
        """An answer in chunks. Raises `ApiError`."""
        ...


class EngineModel:
    """An engine that is called in process."""

    provider = "agentlightning"
    token_ids = True

    def __init__(self, engine: InferenceEngine) -> None:
        self.name = engine.model
        self._engine = engine

    @property
    def version(self) -> int:
        """What the engine samples from now."""
        return self._engine.version

    async def chat(self, request: Body) -> Body:
        """A whole answer."""
        try:
            return await self._engine.chat(request)
        except Exception as error:
            raise _translated(error) from error

    async def stream(self, request: Body) -> AsyncGenerator[Body]:
        """An answer in chunks."""
        try:
            # Engines write their streams as async generators; closing them ends the generation.
            async with aclosing(cast("AsyncGenerator[ChatChunk]", self._engine.stream(request))) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:
            raise _translated(error) from error


class EndpointModel(HttpModel):
    """An engine behind a URL of its own: what it reports of itself is trusted."""

    def __init__(self, engine: InferenceEngine, *, policy: HttpPolicy) -> None:
        first, *others = engine.endpoints
        super().__init__(
            HttpUpstream(base_url=first, replicas=tuple(others), model=engine.model), policy=policy
        )
        self._engine = engine

    @property
    def version(self) -> int:
        """What the engine samples from now."""
        return self._engine.version


class Models:
    """Models by the name that clients ask for."""

    def __init__(self, upstreams: Mapping[str, Upstream], *, policy: HttpPolicy) -> None:
        self._models = {name: _model(upstream, policy=policy) for name, upstream in upstreams.items()}

    def resolve(self, name: str, grant: AttemptGrant) -> Model:
        """The model that serves a name.

        Raises:
            ApiError: 403 if the grant does not cover it, 404 if nothing serves it.
        """
        if grant.models and name not in grant.models:
            allowed = ", ".join(repr(model) for model in grant.models)
            message = f"this key does not cover model {name!r:.200}; it covers {allowed}"
            raise ApiError(403, message, fault="model_not_allowed", final=True)
        model = self._models.get(name) or self._models.get(ANY)
        if model is None or name == ANY:
            known = ", ".join(repr(known) for known in self._models if known != ANY) or "none"
            message = f"no upstream serves model {name!r:.200}; configured are {known}"
            raise ApiError(404, message, fault="model_not_found", final=True)
        return model

    def listed(self, grant: AttemptGrant) -> list[str]:
        """Names that a grant may ask for."""
        own = [name for name in self._models if name != ANY]
        if ANY not in self._models:
            return [name for name in own if not grant.models or name in grant.models]
        return list(grant.models) or own or [self._models[ANY].name]

    async def start(self) -> None:
        """Opens connections' sessions, in the event loop that uses them."""
        for model in self._models.values():
            if isinstance(model, HttpModel):
                await model.start()

    async def stop(self) -> None:
        """Closes them."""
        for model in self._models.values():
            if isinstance(model, HttpModel):
                await model.stop()


def _model(upstream: Upstream, *, policy: HttpPolicy) -> EngineModel | HttpModel:
    if isinstance(upstream, HttpUpstream):
        return HttpModel(upstream, policy=policy)
    if upstream.endpoints:
        return EndpointModel(upstream, policy=policy)
    return EngineModel(upstream)


def _translated(error: Exception) -> ApiError:
    if isinstance(error, ConfigError):
        return bad_request(f"the engine cannot honour this request: {error}")
    if not isinstance(error, EngineError):
        _log.error("the engine raised %s", type(error).__name__, exc_info=error)
        return ApiError(
            502, f"the engine failed with {type(error).__name__}; see its log", fault="engine_error"
        )
    return ApiError(502, f"the engine failed: {error}", fault="engine_error")
