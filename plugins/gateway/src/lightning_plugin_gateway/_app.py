"""The ASGI application: every path is refused unless it is served here and its key is good."""

from __future__ import annotations

import logging

import msgspec

from agentlightning.gateway import AttemptGrant
from lightning_plugin_gateway._asgi import Receive, Scope, Send
from lightning_plugin_gateway._attempts import Attempts
from lightning_plugin_gateway._chat import Chat
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._keys import PREFIX, KeyRing
from lightning_plugin_gateway._models import Models
from lightning_plugin_gateway._route import Route, find_route

_log = logging.getLogger(__name__)


class GatewayApp:
    """Routes, authorises, and tells failures in OpenAI's form."""

    def __init__(self, *, keys: KeyRing, attempts: Attempts, models: Models, chat: Chat) -> None:
        self._keys = keys
        self._attempts = attempts
        self._models = models
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway serves HTTP only, not {scope['type']!r}")
        exchange = Exchange(scope, receive, send)
        try:
            await self._serve(exchange, scope)
        except ApiError as error:
            await exchange.reply(error.status, error.body, error.headers)
        except Exception:  # the border of the process: a bug here must not leave the client without an answer
            _log.exception("a call failed in the gateway itself")
            if exchange.started:
                raise
            failure = ApiError(500, "the gateway failed; its log has the reason", fault="gateway_error")
            await exchange.reply(failure.status, failure.body)

    async def _serve(self, exchange: Exchange, scope: Scope) -> None:
        raw_path = scope.get("raw_path")
        path = raw_path.decode("latin-1") if isinstance(raw_path, bytes) else str(scope["path"])
        route = find_route(str(scope["method"]), path)
        if route.endpoint == "health":
            await exchange.reply(200, b"{}")
            return
        grant = self._authorise(route, exchange)
        calls = self._attempts.enter(grant.attempt_id)
        try:
            if route.endpoint == "models":
                await exchange.reply(200, _listing(self._models.listed(grant)))
            else:
                await self._chat.serve(exchange, grant, calls)
        finally:
            self._attempts.leave(calls)

    def _authorise(self, route: Route, exchange: Exchange) -> AttemptGrant:
        """The grant of a request's key. A path can carry the key; what it names must agree with the key."""
        in_path = route.credential is not None and route.credential.startswith(PREFIX)
        grant = self._keys.verify(route.credential or "" if in_path else _header_key(exchange))
        if route.rollout is None:
            return grant
        if route.rollout != grant.rollout_id or not (in_path or route.credential == grant.attempt_id):
            message = "the URL names another attempt than its key belongs to; use /r/{rollout}/{key}/v1"
            raise ApiError(403, message, fault="invalid_key", final=True)
        return grant


def _header_key(exchange: Exchange) -> str:
    scheme, _, key = exchange.header(b"authorization").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return exchange.header(b"x-api-key").strip()


def _listing(names: list[str]) -> bytes:
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"} for name in names]
    return msgspec.json.encode({"object": "list", "data": data})
