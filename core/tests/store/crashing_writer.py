"""Writes to a store and says what was acknowledged, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys

from agentlightning.store import Store, open_store
from agentlightning.types import RolloutRequest, Span, SpanSource


def acknowledge(*words: object) -> None:
    """One line in one write: a kill cannot cut it in two."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def work(store: Store, name: str) -> None:
    for number in range(10**9):
        rollout_id = f"{name}-{number}"
        await store.rollouts.enqueue([RolloutRequest(task=number, id=rollout_id)], idempotency_key=rollout_id)
        acknowledge("enqueued", rollout_id)
        for lease in await store.rollouts.lease(name, limit=2, ttl_s=0.5):
            attempt = lease.attempt
            spans = [
                Span(
                    rollout_id=lease.rollout.id,
                    attempt_id=attempt.id,
                    span_id=f"{index:016x}",
                    trace_id="0" * 32,
                    name="span",
                    operation="chat",
                    source=SpanSource.GATEWAY,
                    start_ns=index,
                    end_ns=index,
                    attributes={"text": "x" * 500},
                )
                for index in range(5)
            ]
            await store.spans.append(spans, token=attempt.token)
            acknowledge("appended", attempt.id)
            await store.rollouts.finish(attempt.id, token=attempt.token, output=lease.rollout.id)
            acknowledge("finished", lease.rollout.id)


async def main(url: str, name: str) -> None:
    async with open_store(url) as store:
        await asyncio.gather(*(work(store, f"{name}.{worker}") for worker in range(4)))


asyncio.run(main(sys.argv[1], sys.argv[2]))
