"""Agent Lightning 0.3's store in memory, in process. Runs in that environment, as a `Worker`."""

from __future__ import annotations

import asyncio
import logging

from agentlightning.store.memory import InMemoryLightningStore
from answering import Stopwatch, serve
from workload import SPANS_OF, llm_attributes, task

from agentlightning.types import Span


def spans(*, batch: int, count: int) -> dict[str, float]:
    """Appends `count` LLM spans in batches."""
    return asyncio.run(_spans(batch, count))


def cycles(*, workers: int, count: int) -> dict[str, float]:
    """Enqueues, leases, heartbeats and finishes `count` rollouts, by so many workers at once."""
    return asyncio.run(_cycles(workers, count))


async def _spans(batch: int, count: int) -> dict[str, float]:
    store = InMemoryLightningStore(thread_safe=False)
    attempts = [await store.start_rollout(task(index)) for index in range(SPANS_OF)]
    attributes = [llm_attributes(index) for index in range(64)]
    batches = []
    for start in range(0, count, batch):
        attempt = attempts[start // batch % SPANS_OF]
        made = [
            Span.from_attributes(
                attributes=dict(attributes[index % 64]),
                rollout_id=attempt.rollout_id,
                attempt_id=attempt.attempt.attempt_id,
                sequence_id=index,
                name="chat stub-model",
                start_time=1.0 + index,
                end_time=1.5 + index,
            )
            for index in range(start, start + batch)
        ]
        batches.append(made)
    watch = Stopwatch()
    if batch == 1:
        for (span,) in batches:
            await store.add_span(span)
    else:
        for made in batches:
            await store.add_many_spans(made)
    taken = watch.per(len(batches) * batch)
    kept = (await store.statistics())["total_spans"]
    if kept != len(batches) * batch:
        raise AssertionError(f"{kept} spans were kept of {len(batches) * batch}")
    return taken


async def _cycles(workers: int, count: int) -> dict[str, float]:
    store = InMemoryLightningStore(thread_safe=False)

    async def work(worker: str) -> None:
        for index in range(count // workers):
            await store.enqueue_rollout(task(index), mode="train")
            taken = await store.dequeue_rollout(worker_id=worker)
            await store.update_worker(worker, {"alive": True})
            await store.update_attempt(taken.rollout_id, taken.attempt.attempt_id, status="succeeded")

    watch = Stopwatch()
    await asyncio.gather(*(work(f"worker-{index}") for index in range(workers)))
    total = count // workers * workers
    result = watch.per(total)
    done = len(await store.query_rollouts(status_in=["succeeded"], limit=-1))
    if done != total:
        raise AssertionError(f"{done} rollouts succeeded of {total}")
    return result


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    serve({"spans": spans, "cycles": cycles})
