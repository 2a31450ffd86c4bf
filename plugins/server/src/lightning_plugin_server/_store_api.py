"""The store's methods as endpoints, one for each route of `agentlightning.store.wire`."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, cast

import msgspec

from agentlightning.store import Store
from agentlightning.store.wire import Route, routes
from agentlightning.types import Span
from lightning_plugin_server._codec import RequestCodec, encoded
from lightning_plugin_server._config import ServerConfig
from lightning_plugin_server._endpoint import Call, Endpoint
from lightning_plugin_server._refusal import Refusal
from lightning_plugin_server._scoping import scoped_spans

_WAITS: Final = {"rollouts/lease": "wait_s", "rollouts/completions": "wait_s", "rollouts/wait": "timeout_s"}
"""Methods that may wait, with the argument that says for how long."""


def store_endpoints(store: Store, config: ServerConfig) -> list[Endpoint]:
    """One endpoint for each method of the store."""
    return [_endpoint(store, route, config) for route in routes().values()]


def _endpoint(store: Store, route: Route, config: ServerConfig) -> Endpoint:
    part = store if route.part == "store" else getattr(store, route.part)
    method: Callable[..., Awaitable[object]] = getattr(part, route.method)
    codec = RequestCodec(route.request)
    names = tuple(field.name for field in msgspec.structs.fields(route.request))
    waits = _WAITS.get(f"{route.part}/{route.method}")
    appends = f"{route.part}/{route.method}" == "spans/append"

    async def handle(call: Call) -> None:
        content_type = call.content_type
        request = codec.decode(await call.body(), content_type)
        arguments = {name: getattr(request, name) for name in names}
        if "limit" in arguments:
            _check_limit(arguments["limit"], config.max_limit)
        if appends:
            arguments["spans"] = scoped_spans(cast("tuple[Span, ...]", arguments["spans"]), call.credential)
        if waits is None:
            result = await method(**arguments)
        else:
            wait_s = _bounded(arguments[waits], config.max_wait_s)
            # what is there already need not be waited for, which costs three tasks; `wait` cannot tell
            result = None if route.method == "wait" and wait_s else await method(**arguments | {waits: 0.0})
            if not result and wait_s:
                result = await call.unless_gone(_coroutine(method(**arguments | {waits: wait_s})))
        body, answered = encoded(result, accept=call.header(b"accept"), content_type=content_type)
        await call.respond(200, body, content_type=answered)

    return Endpoint(method="POST", path=route.path, handle=handle, scopes=route.scopes, summary=route.summary)


async def _coroutine(work: Awaitable[object]) -> object:
    return await work


def _bounded(wait_s: object, most: float) -> float:
    """How long a call is held: as asked, but not for ever."""
    if wait_s is None:
        return most
    if not isinstance(wait_s, int | float) or not math.isfinite(wait_s) or wait_s < 0:
        raise Refusal(400, f"a wait is a number of seconds from 0 on, got {wait_s!r}")
    return min(float(wait_s), most)


def _check_limit(limit: object, most: int) -> None:
    if not isinstance(limit, int) or not 1 <= limit <= most:
        raise Refusal(400, f"limit must be from 1 to {most}, got {limit!r}; read on with the cursor")
