"""`POST /v1/messages/count_tokens`: how many tokens a prompt has."""

from __future__ import annotations

import asyncio

import msgspec

from agentlightning.gateway import GatewayConfig
from lightning_plugin_gateway._attempts import AttemptCalls
from lightning_plugin_gateway._attribution import Caller
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._gate import Gate
from lightning_plugin_gateway._request import Body, Changes, permitted, upstream_request
from lightning_plugin_gateway._wires import CHAT
from lightning_plugin_gateway.upstreams import CallRoute, Models
from lightning_plugin_gateway.wires.messages import Messages

_MESSAGES = Messages()


class Counting:
    """Counts by asking the model for one token and reading how long the prompt was.

    So the count is that of the model's own tokenizer and chat template, whatever serves it. It counts as a call of
    the attempt, but is no sample: there is no span.
    """

    def __init__(self, *, models: Models, gate: Gate, config: GatewayConfig) -> None:
        self._models = models
        self._gate = gate
        self._config = config

    async def serve(self, exchange: Exchange, caller: Caller, calls: AttemptCalls) -> None:
        """Answers one request. Raises `ApiError`."""
        request = _MESSAGES.count_request(_parsed(await exchange.body(limit=self._config.max_body_bytes)))
        if not caller.observed:
            calls.count(self._config)
        grant = caller.grant
        name = str(request["model"])
        model = self._models.resolve(name, grant)
        changes = Changes(model=model.name or name)
        wire = CHAT if CHAT.name in model.wires else _MESSAGES
        asked = {**permitted(request), "max_tokens": 1, "stream": False}
        sent = upstream_request(wire.from_chat(asked), changes, wire=wire.name)
        loop = asyncio.get_running_loop()
        route = CallRoute(
            rollout_id=grant.rollout_id,
            attempt_id=grant.attempt_id,
            deadline=loop.time() + self._config.call_timeout_s,
        )
        await self._gate.enter()
        try:
            completion = wire.completion(await model.call(wire.name, sent, route=route))
        finally:
            self._gate.leave()
        await exchange.reply(200, msgspec.json.encode(_MESSAGES.count_answer(_prompt_tokens(completion))))


def _parsed(raw: bytes) -> Body:
    """A request to count: one for messages, but that an answer's length is not asked for."""
    try:
        given = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _MESSAGES.parse(raw)
    return _MESSAGES.parse(msgspec.json.encode({"max_tokens": 1, **given}))


def _prompt_tokens(completion: Body) -> int:
    usage = completion.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    ids = completion.get("prompt_token_ids")
    if not isinstance(count, int):
        count = len(ids) if isinstance(ids, list) else None
    if count is None:
        message = "the upstream did not say how many tokens the prompt has"
        raise ApiError(502, message, fault="invalid_answer")
    return count
