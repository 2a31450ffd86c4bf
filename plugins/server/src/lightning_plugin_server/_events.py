"""`GET /api/events`: completions and statistics as server-sent events, for consumers and live views."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import parse_qs

import msgspec

from agentlightning.credentials import Scope
from agentlightning.store import Store
from lightning_plugin_server._body import ClientGone
from lightning_plugin_server._endpoint import Call, Endpoint, ShuttingDown
from lightning_plugin_server._refusal import Refusal

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
)
_BATCH: Final = 100
_PAUSE_S: Final = 5.0  # between statistics, and the longest silence
_KNOWN: Final = frozenset({"after", "run_id"})


def events_endpoint(store: Store) -> Endpoint:
    """The endpoint of live events.

    Each `completion` has its cursor as its id, so that a client which connects again with `Last-Event-ID` (or `after`)
    misses none. Nothing is read from the store before the client has taken what came before, so a slow one costs no
    memory. `statistics` come at the beginning and every few seconds.
    """

    async def handle(call: Call) -> None:
        after, run_id = _asked(call)
        await call.start(200, _HEADERS)
        try:
            await call.unless_gone(_send(call, store, after=after, run_id=run_id))
        except ClientGone:
            return
        except ShuttingDown:
            await call.stream(b"", last=True)

    return Endpoint(
        method="GET",
        path="/api/events",
        handle=handle,
        scopes=frozenset({Scope.VIEWER, Scope.TRAINER, Scope.REWARD}),
        summary="Completions and statistics as server-sent events.",
    )


async def _send(call: Call, store: Store, *, after: int, run_id: str | None) -> None:
    loop = asyncio.get_running_loop()
    due_at = loop.time()
    while True:
        if loop.time() >= due_at:
            statistics = msgspec.json.encode(await store.statistics())
            await call.stream(b"event: statistics\ndata: " + statistics + b"\n\n")
            due_at = loop.time() + _PAUSE_S
        completions = await store.rollouts.completions(
            after=after, run_id=run_id, limit=_BATCH, wait_s=max(0.0, due_at - loop.time())
        )
        for completion in completions:
            after = completion.cursor
            data = msgspec.json.encode(completion)
            await call.stream(b"id: %d\nevent: completion\ndata: %b\n\n" % (after, data))


def _asked(call: Call) -> tuple[int, str | None]:
    try:
        found = parse_qs(call.query.decode("ascii"), strict_parsing=bool(call.query), max_num_fields=10)
    except ValueError as error:
        raise Refusal(400, f"the query cannot be read: {error}") from error
    unknown = sorted(found.keys() - _KNOWN)
    if unknown:
        raise Refusal(400, f"the unknown parameter {unknown[0]!r}; there are {', '.join(sorted(_KNOWN))}")
    last = call.header(b"last-event-id") or found.get("after", ["0"])[-1]
    if not (last.isascii() and last.isdecimal() and len(last) <= 18):
        raise Refusal(400, f"{last!r} is no cursor; pass on the id of the last event, or 0")
    return int(last), found.get("run_id", [None])[-1]
