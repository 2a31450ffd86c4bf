"""`POST /v1/messages/count_tokens`: how many tokens a prompt has."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from agentlightning.gateway import GatewayConfig
from lightning_plugin_gateway._attempts import AttemptCalls
from lightning_plugin_gateway._attribution import Caller
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._gate import Gate
from lightning_plugin_gateway._overrides import Resources
from lightning_plugin_gateway._request import Body, Changes, permitted, upstream_request
from lightning_plugin_gateway._wires import CHAT
from lightning_plugin_gateway.upstreams import COUNT, CallRoute, Model, Models
from lightning_plugin_gateway.wires.messages import Messages

_MESSAGES: Final = Messages()
_ABSENT: Final = frozenset({404, 405, 501})
_PASSED_ON: Final = (b"anthropic-version", b"anthropic-beta")


class Counting:
    """Counts by the model's own tokenizer and chat template, whatever serves it.

    A server that speaks Messages counts itself. Any other, and one that has no such endpoint, is asked for one token,
    and how long the prompt was is read of its answer. It counts as a call of the attempt, but is no sample: there is
    no span.
    """

    def __init__(self, *, models: Models, gate: Gate, config: GatewayConfig, resources: Resources) -> None:
        self._models = models
        self._gate = gate
        self._config = config
        self._resources = resources

    async def serve(self, exchange: Exchange, caller: Caller, calls: AttemptCalls) -> None:
        """Answers one request. Raises `ApiError`."""
        request = _parsed(await exchange.body(limit=self._config.max_body_bytes))
        if not caller.observed:
            calls.count(self._config)
        name = str(request["model"])
        overrides = await self._resources.of(caller, calls)
        model = self._models.chosen(name, overrides.model, caller.grant)
        changes = Changes(model=model.name or overrides.model or name, system=overrides.system)
        await self._gate.enter()
        try:
            route = CallRoute(
                rollout_id=caller.grant.rollout_id,
                attempt_id=caller.grant.attempt_id,
                deadline=time.monotonic() + self._config.call_timeout_s,
            )
            count = None
            if _MESSAGES.name in model.wires:
                headers = exchange.headers(_PASSED_ON)
                own = msgspec.structs.replace(route, headers=headers)
                count = await _counted(model, request, changes=changes, route=own)
            if count is None:
                count = await _sampled(model, request, changes=changes, route=route)
        finally:
            self._gate.leave()
        await exchange.reply(200, msgspec.json.encode(_MESSAGES.count_answer(count)))


async def _counted(model: Model, request: Body, *, changes: Changes, route: CallRoute) -> int | None:
    """The server's own count; None if it has no endpoint for that. Raises `ApiError`."""
    asked = {name: value for name, value in permitted(request).items() if name != "max_tokens"}
    sent = upstream_request(asked, changes, wire=_MESSAGES.name)
    try:
        answer = await model.call(COUNT, sent, route=route)
    except ApiError as error:
        if error.status in _ABSENT:
            return None
        raise
    count = answer["input_tokens"]
    return count if isinstance(count, int) else None


async def _sampled(model: Model, request: Body, *, changes: Changes, route: CallRoute) -> int:
    """The length of the prompt of one sampled token. Raises `ApiError`."""
    wire = CHAT if CHAT.name in model.wires else _MESSAGES
    asked = {**permitted(_MESSAGES.count_request(request)), "max_tokens": 1, "stream": False}
    sent = upstream_request(wire.from_chat(asked), changes, wire=wire.name)
    return _prompt_tokens(wire.completion(await model.call(wire.name, sent, route=route)))


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
