"""The models behind a gateway, by the name that clients ask for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agentlightning.gateway import AttemptGrant, HttpUpstream, Upstream
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams._engine import EngineModel
from lightning_plugin_gateway.upstreams._http import HttpModel
from lightning_plugin_gateway.upstreams._model import Model
from lightning_plugin_gateway.upstreams._policy import HttpPolicy
from lightning_plugin_gateway.upstreams._status import ModelStatus

ANY = "*"


class Models:
    """Finds models. Connections belong to the event loop of the first call."""

    def __init__(self, upstreams: Mapping[str, Upstream], *, policy: HttpPolicy) -> None:
        """Prepares models.

        Args:
            upstreams: By model name; the name `*` serves every other model.
            policy: Patience with those behind a URL.

        Raises:
            ConfigError: An upstream's URL or wire cannot be used, or the variable of its key is not set.
        """
        self._models = {name: _model(name, upstream, policy=policy) for name, upstream in upstreams.items()}

    @property
    def all(self) -> list[Model]:
        """Every model."""
        return list(self._models.values())

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

    def chosen(self, asked: str, override: str | None, grant: AttemptGrant) -> Model:
        """The model that serves a name, or, whatever the agent asks for, the one that its resources name instead.

        Raises:
            ApiError: As `resolve`; a grant says nothing about models that the agent has not chosen.
        """
        if override is None:
            return self.resolve(asked, grant)
        return self.resolve(override, msgspec.structs.replace(grant, models=()))

    def listed(self, grant: AttemptGrant) -> list[str]:
        """Names that a grant may ask for, as far as they are known: `*` serves any other name too."""
        own = [name for name in self._models if name != ANY]
        if ANY not in self._models:
            return [name for name in own if not grant.models or name in grant.models]
        return list(grant.models) or own or list(filter(None, [self._models[ANY].name]))

    def status(self) -> dict[str, ModelStatus]:
        """How each fares, by name. Safe from any thread."""
        return {name: model.status() for name, model in self._models.items()}

    async def stop(self) -> None:
        """Closes connections."""
        for model in self._models.values():
            await model.stop()


def _model(name: str, upstream: Upstream, *, policy: HttpPolicy) -> Model:
    if isinstance(upstream, HttpUpstream):
        return HttpModel(upstream, policy=policy, title=name)
    return EngineModel(upstream, policy=policy)
