"""The same agent as it is or traced by Agent Lightning 0.3: `opponent_al03_capture.py PORT none|agentops`. A `Worker`.

Its tracer's context is what is measured, with its store in memory; its runner would cost more.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from typing import TYPE_CHECKING

from agent_calls import CALLS, agent
from answering import serve

import agentlightning as agl

if TYPE_CHECKING:
    from collections.abc import Callable


def rollouts(*, count: int) -> dict[str, float]:
    """CPU seconds of one call."""
    client, solve = agent(PORT)
    with client:
        taken = _plain(solve, count) if MODE == "none" else asyncio.run(_traced(solve, count))
    return {"cpu_s": taken / count / CALLS}


def _plain(solve: Callable[[], str], count: int) -> float:
    gc.collect()
    before = time.process_time()
    for _ in range(count):
        solve()
    return time.process_time() - before


async def _traced(solve: Callable[[], str], count: int) -> float:
    store = agl.InMemoryLightningStore()
    with TRACER.lifespan(store):
        begun = [await store.start_rollout({"q": index}) for index in range(count)]
        gc.collect()
        before = time.process_time()
        for one in begun:
            async with TRACER.trace_context(
                "bench", store=store, rollout_id=one.rollout_id, attempt_id=one.attempt.attempt_id
            ):
                solve()
        taken = time.process_time() - before
        kept = [len(await store.query_spans(one.rollout_id)) for one in begun]
    if min(kept) < CALLS:
        raise AssertionError(f"a rollout has {min(kept)} spans of {CALLS} calls")
    return taken


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    PORT, MODE = int(sys.argv[1]), sys.argv[2]
    TRACER = agl.AgentOpsTracer()
    serve({"rollouts": rollouts})
