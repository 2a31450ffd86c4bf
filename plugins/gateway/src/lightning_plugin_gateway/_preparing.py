"""Who is asked for what: a call's model, what its attempt's resources and mode change, and what came before it."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from agentlightning.gateway import GatewayConfig, Sampling
from agentlightning.store import Store
from agentlightning.types import Mode
from lightning_plugin_gateway._call import Call
from lightning_plugin_gateway._history import conversation
from lightning_plugin_gateway._outgoing import Outgoing, outgoing
from lightning_plugin_gateway._overrides import Overrides, Resources
from lightning_plugin_gateway._request import Body, Changes, body_digest, call_seed, needs_seed
from lightning_plugin_gateway._wires import WIRES
from lightning_plugin_gateway.turns import TurnBuilder
from lightning_plugin_gateway.upstreams import CallRoute, Model, Models

_GRACE_S = 1.0  # the gateway's own timeout, which tells its setting, comes before the transport's
_PASSED_ON = (b"anthropic-version", b"anthropic-beta", b"openai-beta")
"""The only headers of a client's that an upstream gets to see, and only of its own wire."""


class Preparing:
    """Turns requests of clients into requests of upstreams."""

    def __init__(
        self,
        *,
        store: Store,
        models: Models,
        config: GatewayConfig,
        turns: TurnBuilder,
        resources: Resources,
    ) -> None:
        self._store = store
        self._models = models
        self._config = config
        self._turns = turns
        self._resources = resources

    async def prepare(self, call: Call, raw: bytes) -> tuple[Model, Outgoing]:
        """Decides who is asked for what. The record tells it, also if that fails on the way. Raises `ApiError`."""
        record, grant, wire = call.record, call.caller.grant, call.wire
        record.asked = asked = wire.parse(raw)
        record.chat = asked if wire.name == "chat" else {}
        record.model = name = str(asked["model"])
        overrides = await self._resources.of(call.caller, call.calls)
        model = self._models.chosen(name, overrides.model, grant)
        call.target = overrides.model or name
        changes = Changes(
            model=model.name or call.target,
            sampling=() if call.caller.observed else self._sampling(grant.mode, overrides, model),
            system=overrides.system,
            token_ids=model.token_ids,
        )
        before = await self._before(call, model)
        out = outgoing(
            asked,
            wire=wire,
            model=model,
            changes=changes,
            before=before,
            seeds=lambda body: _seed(call, body),
        )
        call.out = out
        record.provider = model.provider
        record.chat, record.no_ids = out.chat, out.no_ids
        return model, out

    def _sampling(self, mode: Mode, overrides: Overrides, model: Model) -> tuple[Sampling, ...]:
        """What is changed in the sampling of an attempt's call, the later ones winning."""
        trains = mode is Mode.TRAIN and model.is_engine
        policy = self._config.on_policy if trains else None
        return tuple(one for one in (policy, overrides.sampling, self._config.sampling.get(mode)) if one)

    async def continued(self, call: Call, model: Model, out: Outgoing) -> Outgoing:
        """Builds the prompt of the ids that were generated, where the model takes ids."""
        if out.wire.name != "chat" or len(out.requests) != 1 or call.caller.observed:
            return out
        call.turn = turn = await self._turns.prepare(
            out.requests[0],
            attempt_id=call.caller.grant.attempt_id,
            model=call.target,
            wires=model.wires,
        )
        if turn.wire == "chat":
            return out
        return msgspec.structs.replace(out, wire=WIRES[turn.wire], requests=[turn.request])

    async def _before(self, call: Call, model: Model) -> list[Body]:
        """The conversation that a request goes on with, by the id of its last answer."""
        ident = call.record.asked.get("previous_response_id") if call.wire.name == "responses" else None
        if not isinstance(ident, str) or not ident:
            return []
        if call.wire.name in model.wires and not (model.token_ids and "chat" in model.wires):
            return []  # the upstream knows
        attempt = None if call.caller.observed else call.caller.grant.attempt_id
        return await conversation(ident, history=call.calls.history, store=self._store, attempt_id=attempt)

    def route(self, call: Call) -> CallRoute:
        """What the transport is told of a call besides its request."""
        grant = call.caller.grant
        observed, out = call.caller.observed, call.out
        return CallRoute(
            rollout_id="" if observed else grant.rollout_id,
            attempt_id=grant.attempt_id,
            headers=call.exchange.headers(_PASSED_ON) if out and out.native else {},
            deadline=call.deadline(self._config.call_timeout_s) + _GRACE_S,
            slim=out is not None and out.slim,
            prefix=_prefix(call.record.chat) if observed else b"",
        )


def _prefix(chat: Body) -> bytes:
    """Of conversations that begin alike."""
    messages = chat.get("messages")
    first = messages[:2] if isinstance(messages, list) else []
    return blake2b(msgspec.json.encode(first), digest_size=8).digest()


def _seed(call: Call, body: Body) -> int | None:
    grant = call.caller.grant
    if grant.seed is None or not needs_seed(body, grant):
        return None
    digest = body_digest(body)
    occurrence = call.calls.occurrence(digest, retried=call.exchange.retried)
    return call_seed(grant.seed, digest, occurrence)
