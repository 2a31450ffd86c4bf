"""Our store, in process, of any URL. Runs as a `Worker`."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from answering import Stopwatch, serve
from workload import SPANS_OF, llm_attributes, task

from agentlightning.cli._stores import store_at
from agentlightning.plugins import load_plugins
from agentlightning.store import RolloutQuery
from agentlightning.types import RolloutRequest, RolloutStatus, Span, SpanSource, SpanStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.store import Store
    from agentlightning.types import Attempt

SQLITE = "sqlite"
"""Stands for a new file."""


def llm_span(index: int, attempt: Attempt, attributes: dict[str, object]) -> Span:
    """One LLM call as a span."""
    return Span(
        rollout_id=attempt.rollout_id,
        attempt_id=attempt.id,
        span_id=f"{index:016x}",
        trace_id=f"{index % SPANS_OF:032x}",
        name="chat stub-model",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=1_000_000_000 + index,
        end_ns=1_500_000_000 + index,
        status=SpanStatus.OK,
        attributes=attributes,
    )


def spans(*, url: str, batch: int, count: int, writers: int = 1) -> dict[str, float]:
    """Appends `count` LLM spans in batches, by so many writers at once."""
    with _store(url) as store:
        return asyncio.run(_spans(store, batch, count, writers))


def cycles(*, url: str, workers: int, count: int) -> dict[str, float]:
    """Enqueues, leases, heartbeats and finishes `count` rollouts, by so many workers at once."""
    with _store(url) as store:
        return asyncio.run(_cycles(store, workers, count))


@contextmanager
def _store(url: str) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder:
        place = f"sqlite:///{Path(folder) / 'store.db'}" if url == SQLITE else url
        yield store_at(place, load_plugins())


async def _spans(store: Store, batch: int, count: int, writers: int) -> dict[str, float]:
    attributes = [llm_attributes(index) for index in range(64)]
    async with store:
        await store.rollouts.enqueue([RolloutRequest(task=task(index)) for index in range(SPANS_OF)])
        leases = await store.rollouts.lease("writer", limit=SPANS_OF, ttl_s=600.0)
        batches = [
            [
                llm_span(index, leases[start // batch % SPANS_OF].attempt, attributes[index % 64])
                for index in range(start, start + batch)
            ]
            for start in range(0, count, batch)
        ]
        left = iter(batches)

        async def write() -> None:
            for made in left:
                await store.spans.append(made, token=1)

        watch = Stopwatch()
        await asyncio.gather(*(write() for _ in range(writers)))
        taken = watch.per(len(batches) * batch)
        kept = await store.spans.count()
    if kept != len(batches) * batch:
        raise AssertionError(f"{kept} spans were kept of {len(batches) * batch}")
    return taken


async def _cycles(store: Store, workers: int, count: int) -> dict[str, float]:
    async def work(worker: str) -> None:
        for index in range(count // workers):
            await store.rollouts.enqueue([RolloutRequest(task=task(index))])
            (lease,) = await store.rollouts.lease(worker)
            await store.rollouts.heartbeat(lease.attempt.id, token=lease.attempt.token)
            await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)

    async with store:
        watch = Stopwatch()
        await asyncio.gather(*(work(f"worker-{index}") for index in range(workers)))
        total = count // workers * workers
        taken = watch.per(total)
        page = await store.rollouts.list(RolloutQuery(statuses=(RolloutStatus.SUCCEEDED,)), limit=total + 1)
    if len(page.items) != total:
        raise AssertionError(f"{len(page.items)} rollouts succeeded of {total}")
    return taken


if __name__ == "__main__":
    serve({"spans": spans, "cycles": cycles})
