"""The ASGI application: every path is refused unless it is served here and its key is good."""

from __future__ import annotations

import logging

from lightning_plugin_gateway._alarms import Alarms
from lightning_plugin_gateway._asgi import Receive, Scope, Send
from lightning_plugin_gateway._attempts import AttemptCalls, Attempts
from lightning_plugin_gateway._attribution import Attribution, Caller
from lightning_plugin_gateway._calls import Calls
from lightning_plugin_gateway._counting import Counting
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._listing import described, listing
from lightning_plugin_gateway._route import Route, find_route
from lightning_plugin_gateway._wires import WIRES
from lightning_plugin_gateway.upstreams import Models
from lightning_plugin_gateway.wires._wire import Wire

_log = logging.getLogger(__name__)


class GatewayApp:
    """Routes, authorises, and tells failures in the form of the wire that they happen on."""

    def __init__(
        self,
        *,
        attribution: Attribution,
        attempts: Attempts,
        models: Models,
        calls: Calls,
        counting: Counting,
        alarms: Alarms,
    ) -> None:
        self._attribution = attribution
        self._attempts = attempts
        self._models = models
        self._calls = calls
        self._counting = counting
        self._alarms = alarms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway serves HTTP only, not {scope['type']!r}")
        exchange = Exchange(scope, receive, send, alarms=self._alarms)
        anthropic = bool(exchange.header(b"anthropic-version"))
        wire = WIRES["messages" if anthropic else "chat"]
        try:
            raw_path = scope.get("raw_path")
            path = raw_path.decode("latin-1") if isinstance(raw_path, bytes) else str(scope["path"])
            route = find_route(str(scope["method"]), path)
            if route.endpoint in {"call", "count"}:
                wire = WIRES[route.wire]
            await self._serve(exchange, route, wire, anthropic=anthropic)
        except ApiError as error:
            await exchange.reply(error.status, wire.error(error), error.headers)
        except Exception:  # the border of the process: a bug here must not leave the client without an answer
            _log.exception("a call failed in the gateway itself")
            if exchange.started:
                raise
            failure = ApiError(500, "the gateway failed; its log has the reason", fault="gateway_error")
            await exchange.reply(failure.status, wire.error(failure))

    async def _serve(self, exchange: Exchange, route: Route, wire: Wire, *, anthropic: bool) -> None:
        if route.endpoint == "health":
            await exchange.reply(200, b"{}")
            return
        caller = await self._attribution.caller(route, exchange)
        calls = self._enter(caller)
        try:
            if route.endpoint == "call":
                await self._calls.serve(exchange, caller, calls, wire)
            elif route.endpoint == "count":
                await self._counting.serve(exchange, caller, calls)
            else:
                names = self._models.listed(caller.grant)
                if route.endpoint == "models":
                    body = listing(names, anthropic=anthropic)
                else:
                    body = described(route.model, names=names, anthropic=anthropic)
                await exchange.reply(200, body)
        finally:
            self._attempts.leave(calls, caller.grant.attempt_id)

    def _enter(self, caller: Caller) -> AttemptCalls:
        if not caller.observed:
            return self._attempts.enter(caller.grant.attempt_id)
        self._attempts.join(self._attempts.live)
        return self._attempts.live
