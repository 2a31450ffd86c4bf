"""What an attempt's resources change in its calls: the model that answers, and the system prompt.

A resource set says so under two reserved names: `gateway.model`, of kind `model`, and `gateway.system`, of kind
`prompt`, whose text is used as it is. So an agent that nobody can change is still given a better prompt or model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from agentlightning.errors import NotFound, StoreUnavailable
from agentlightning.gateway import Sampling
from agentlightning.store import Store
from agentlightning.types import ModelEndpoint, PromptTemplate, ResourceRecord
from lightning_plugin_gateway._errors import ApiError

if TYPE_CHECKING:
    from lightning_plugin_gateway._attempts import AttemptCalls
    from lightning_plugin_gateway._attribution import Caller

MODEL = "gateway.model"
SYSTEM = "gateway.system"
_KEPT_SETS = 256


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """Changes; None leaves what the agent asks for."""

    model: str | None = None
    sampling: Sampling | None = None
    system: str | None = None


NOTHING = Overrides()


class Resources:
    """Reads what resource sets override; a set never changes, so it is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sets: OrderedDict[str, Overrides] = OrderedDict()

    async def of(self, caller: Caller, calls: AttemptCalls) -> Overrides:
        """What a caller's attempt changes, read with its first call; live traffic has no resources."""
        if caller.observed:
            return NOTHING
        if calls.overrides is None:
            calls.overrides = await self.overrides(caller.grant.rollout_id)
        return calls.overrides

    async def overrides(self, rollout_id: str) -> Overrides:
        """The overrides of a rollout's resource set.

        Raises:
            ApiError: 503 if the store is away, 500 if the resources are not what their names say.
        """
        try:
            ident = (await self._store.rollouts.get(rollout_id)).resources
            if ident is None:
                return NOTHING
            known = self._sets.get(ident)
            if known is None:
                known = self._sets[ident] = _overrides((await self._store.resources.get(ident)).resources)
                if len(self._sets) > _KEPT_SETS:
                    self._sets.popitem(last=False)
        except NotFound:  # the record will tell that there is no such attempt
            return NOTHING
        except StoreUnavailable as error:
            message = f"the attempt's resources could not be read: {error}"
            raise ApiError(503, message, fault="not_recorded", retry_after="1") from error
        except msgspec.ValidationError as error:
            message = f"resources {MODEL!r} and {SYSTEM!r} must be of kinds 'model' and 'prompt': {error}"
            raise ApiError(500, message, fault="gateway_error", final=True) from error
        return known


def _overrides(resources: Mapping[str, ResourceRecord]) -> Overrides:
    model, system = resources.get(MODEL), resources.get(SYSTEM)
    if model is None and system is None:
        return NOTHING
    endpoint = msgspec.convert(model.value, ModelEndpoint) if model else None
    prompt = msgspec.convert(system.value, PromptTemplate) if system else None
    # Its base_url is for others: where calls go is decided by the gateway's configuration alone.
    return Overrides(
        model=endpoint.model if endpoint else None,
        sampling=Sampling(temperature=endpoint.temperature, max_tokens=endpoint.max_tokens)
        if endpoint
        else None,
        system=prompt.template if prompt else None,
    )
