"""Our gateway, started as its user does, on a SQLite file: `contender_gateway.py UPSTREAM_PORT`. Runs as a `Worker`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from answering import serve
from stub_llm import PROMPT_TOKENS
from workload import task

from agentlightning.gateway import AttemptGrant, GatewayConfig, HttpUpstream
from agentlightning.store import SpanQuery, Store, open_store
from agentlightning.types import Lease, Mode, RolloutRequest, Span, SpanStatus
from lightning_plugin_gateway import LocalGateway, create_gateway

_INT_BYTES = 4
_PAGE = 200


class Contender:
    """A gateway, with the attempts that call at the moment."""

    def __init__(self, store: Store, gateway: LocalGateway) -> None:
        self._store = store
        self._gateway = gateway
        self._leases: list[Lease] = []

    async def open(self, attempts: int) -> dict[str, object]:
        """Begins so many attempts: the port, and a path with a key for each."""
        await self._store.rollouts.enqueue([RolloutRequest(task=task(n)) for n in range(attempts)])
        self._leases = await self._store.rollouts.lease("bench", limit=attempts, ttl_s=36_000.0)
        keys = [
            self._gateway.issue_key(
                AttemptGrant(
                    rollout_id=one.rollout.id,
                    attempt_id=one.attempt.id,
                    token=one.attempt.token,
                    mode=Mode.TRAIN,
                )
            )
            for one in self._leases
        ]
        port = int(self._gateway.base_url.rpartition(":")[2])
        return {"port": port, "targets": [("/v1/chat/completions", key) for key in keys]}

    async def close(self, tokens: int) -> dict[str, int]:
        """Ends the attempts: how many calls were recorded, and how many of them completely, with so many tokens."""
        recorded = complete = 0
        for lease in self._leases:
            await self._gateway.release(lease.attempt.id)
            await self._store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
            cursor = None
            while True:
                query = SpanQuery(rollout_ids=(lease.rollout.id,), operations=("chat",))
                page = await self._store.spans.page(query, limit=_PAGE, cursor=cursor)
                recorded += len(page.items)
                complete += sum(_is_complete(span, tokens) for span in page.items)
                if (cursor := page.cursor) is None:
                    break
        self._leases = []
        return {"recorded": recorded, "complete": complete}


def _is_complete(span: Span, tokens: int) -> bool:
    if span.status is not SpanStatus.OK or len(span.tokens) != 1:
        return False
    (record,) = span.tokens
    sizes = (len(record.prompt), len(record.response), len(record.logprobs))
    return not record.incomplete and sizes == tuple(
        _INT_BYTES * number for number in (PROMPT_TOKENS, tokens, tokens)
    )


def main(upstream: int) -> None:
    """Serves until there are no more questions."""
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder, asyncio.Runner() as runner:
        stack = runner.run(_enter(Path(folder), upstream))
        resources, contender = stack
        try:
            serve(
                {
                    "open": lambda attempts: runner.run(contender.open(attempts)),
                    "close": lambda tokens: runner.run(contender.close(tokens)),
                }
            )
        finally:
            runner.run(resources.aclose())


async def _enter(folder: Path, upstream: int) -> tuple[AsyncExitStack, Contender]:
    resources = AsyncExitStack()
    store = await resources.enter_async_context(open_store(f"sqlite:///{folder / 'store.db'}"))
    gateway = create_gateway(
        store=store,
        upstreams={"stub-model": HttpUpstream(base_url=f"http://127.0.0.1:{upstream}/v1")},
        config=GatewayConfig(),
    )
    await gateway.start()
    resources.push_async_callback(gateway.stop)
    return resources, Contender(store, gateway)


if __name__ == "__main__":
    main(int(sys.argv[1]))
