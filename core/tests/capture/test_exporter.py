from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.capture import Exporter, ExporterConfig
from agentlightning.errors import InvalidReward, NotFound, StoreError, StoreUnavailable
from agentlightning.store import AppendResult, SpanQuery, SpanStore, Store, open_store
from agentlightning.types import Lease, RolloutRequest, Span, SpanSource

FAST = ExporterConfig(backoff_s=0.0, tries=3)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as store:
        yield store


async def leases(store: Store, count: int) -> list[Lease]:
    await store.rollouts.enqueue([RolloutRequest(task=number) for number in range(count)])
    return await store.rollouts.lease("worker", limit=count)


def span(attempt_id: str, number: int = 0, *, rollout_id: str = "r", operation: str = "agl.message") -> Span:
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        span_id=f"{number:016x}",
        trace_id="0" * 32,
        name=f"span {number}",
        operation=operation,
        source=SpanSource.EMIT,
        start_ns=1,
        end_ns=2,
    )


def of(lease: Lease, number: int, **fields: str) -> Span:
    return span(lease.attempt.id, number, rollout_id=lease.rollout.id, **fields)


async def stored(store: Store, lease: Lease) -> list[str]:
    page = await store.spans.page(SpanQuery(attempt_ids=(lease.attempt.id,)))
    return [found.name for found in page.items]


class Spans:
    """A span store at the end of a wire: slow, away or fussy as told. A fake of that border only."""

    def __init__(self) -> None:
        self.appended: list[tuple[tuple[Span, ...], int | None]] = []
        self.failures: list[Exception] = []
        self.refused: set[str] = set()
        self.tries = 0
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def append(self, spans: Sequence[Span], *, token: int | None = None) -> AppendResult:
        self.tries += 1
        self.asked.set()
        await self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        if any(found.name in self.refused for found in spans):
            raise InvalidReward("no")
        self.appended.append((tuple(spans), token))
        return AppendResult(stored=len(spans))

    @property
    def names(self) -> list[str]:
        return [found.name for spans, _ in self.appended for found in spans]


def exporter(spans: Spans, config: ExporterConfig = FAST) -> Exporter:
    found: SpanStore = spans  # type: ignore[assignment]
    return Exporter(found, config=config)


async def test_what_was_added_is_durable_after_a_flush(store: Store) -> None:
    (lease,) = await leases(store, 1)
    async with Exporter(store.spans) as exporter:
        sink = exporter.sink(lease.attempt.id, token=lease.attempt.token)
        for number in range(5):
            sink.add(of(lease, number))
        await exporter.flush(lease.attempt.id)
        assert await stored(store, lease) == [f"span {number}" for number in range(5)]


async def test_attempts_that_flush_together_share_an_append() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        sinks = [exported.sink(f"a{number}", token=1) for number in range(64)]
        for sink in sinks:
            sink.add(span(sink.attempt_id))
        await asyncio.gather(*(exported.flush(sink.attempt_id) for sink in sinks))
        assert len(spans.appended) == 1


async def test_each_attempts_spans_go_with_its_token() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        for name, token in (("a", 1), ("b", 2), ("c", 1)):
            exported.sink(name, token=token).add(span(name))
        await exported.flush("a")
    assert [({found.attempt_id for found in batch}, token) for batch, token in spans.appended] == [
        ({"a", "c"}, 1),
        ({"b"}, 2),
    ]


async def test_a_full_batch_is_written_without_a_flush() -> None:
    spans = Spans()
    async with exporter(spans, ExporterConfig(batch=4, interval_s=60.0)) as exported:
        sink = exported.sink("a")
        for number in range(4):
            sink.add(span("a", number))
        await spans.asked.wait()
    assert len(spans.names) == 4


async def test_leaving_writes_what_is_left() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        exported.sink("a").add(span("a"))
    assert spans.names == ["span 0"]


async def test_a_store_that_is_away_for_a_while_loses_nothing() -> None:
    spans = Spans()
    spans.failures = [StoreUnavailable("away"), StoreUnavailable("away")]
    async with exporter(spans) as exported:
        exported.sink("a").add(span("a"))
        await exported.flush("a")
    assert (spans.names, spans.tries) == (["span 0"], 3)


async def test_a_store_that_stays_away_fails_the_flush_and_the_spans_stay() -> None:
    spans = Spans()
    spans.failures = [StoreUnavailable("away")] * 3
    async with exporter(spans) as exported:
        sink = exported.sink("a")
        sink.add(span("a", 0))
        with pytest.raises(StoreUnavailable, match="away"):
            await exported.flush("a")
        sink.add(span("a", 1))
        await exported.flush("a")
    assert spans.names == ["span 0", "span 1"]


async def test_a_refused_span_fails_its_own_attempt_only() -> None:
    spans = Spans()
    spans.refused = {"span 7"}
    async with exporter(spans) as exported:
        good, bad = exported.sink("good"), exported.sink("bad")
        for number in range(5):
            good.add(span("good", number))
        bad.add(span("bad", 6))
        bad.add(span("bad", 7))
        with pytest.raises(InvalidReward):
            await exported.flush("bad")
        await exported.flush("bad")
        await exported.flush("good")
        assert exported.dropped == 1
    assert sorted(spans.names) == [f"span {number}" for number in (0, 1, 2, 3, 4, 6)]


async def test_an_attempt_that_the_store_does_not_know_is_named(store: Store) -> None:
    async with Exporter(store.spans, config=FAST) as exporter:
        exporter.sink("nobody").add(span("nobody"))
        with pytest.raises(NotFound, match="nobody"):
            await exporter.flush("nobody")


async def test_an_error_nobody_thought_of_fails_the_flush_instead_of_hanging_it() -> None:
    spans = Spans()
    spans.failures = [RuntimeError("a bug")]
    async with exporter(spans) as exported:
        exported.sink("a").add(span("a"))
        with pytest.raises(StoreError, match="RuntimeError: a bug"):
            await exported.flush("a")


async def test_threads_wait_for_room_and_nothing_is_dropped() -> None:
    spans = Spans()
    spans.go.clear()
    async with exporter(spans, ExporterConfig(capacity=8, batch=4)) as exported:
        sink = exported.sink("a")

        def produce() -> None:
            for number in range(50):
                sink.add(span("a", number))

        producing = asyncio.create_task(asyncio.to_thread(produce))
        await spans.asked.wait()
        assert not producing.done()
        spans.go.set()
        await producing
        await exported.flush("a")
        assert exported.dropped == 0
    assert spans.names == [f"span {number}" for number in range(50)]


async def test_what_finds_no_room_is_counted_and_fails_the_flush() -> None:
    spans = Spans()
    async with exporter(spans, ExporterConfig(capacity=2, batch=2, patience_s=0.0)) as exported:
        sink = exported.sink("a")
        for number in range(6):
            sink.add(span("a", number))  # the loop's own thread, which must not wait
        await asyncio.to_thread(sink.add, span("a", 9))
        with pytest.raises(StoreUnavailable, match="3 spans of attempt a were dropped"):
            await exported.flush("a")
        assert exported.dropped == 3
    assert spans.names == [f"span {number}" for number in range(4)]


async def test_a_flush_covers_what_was_added_while_another_was_under_way() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        sink = exported.sink("a")
        spans.go.clear()
        sink.add(span("a", 0))
        first = asyncio.create_task(exported.flush("a"))
        await spans.asked.wait()
        sink.add(span("a", 1))
        second = asyncio.create_task(exported.flush("a"))
        await asyncio.sleep(0)
        spans.go.set()
        await first
        await second
        assert spans.names == ["span 0", "span 1"]


async def test_a_cancelled_flush_leaves_the_exporter_working() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        sink = exported.sink("a")
        sink.add(span("a", 0))
        flushing = asyncio.create_task(exported.flush("a"))
        await asyncio.sleep(0)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        sink.add(span("a", 1))
        await exported.flush("a")
    assert spans.names == ["span 0", "span 1"]


async def test_another_threads_loop_can_flush() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        exported.sink("a").add(span("a"))
        await asyncio.to_thread(asyncio.run, exported.flush("a"))
        assert spans.names == ["span 0"]


async def test_an_attempt_without_spans_flushes_at_once() -> None:
    async with exporter(Spans()) as exported:
        sink = exported.sink("a")
        await exported.flush("a")
        await exported.flush("unknown")
        del sink


async def test_late_spans_reach_the_store_after_their_attempt_was_flushed() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        sink = exported.sink("a")
        await exported.flush("a")
        sink.add(span("a"))
    assert spans.names == ["span 0"]


async def test_a_flush_after_the_end_still_writes() -> None:
    spans = Spans()
    async with exporter(spans) as exported:
        sink = exported.sink("a")
    sink.add(span("a"))
    await exported.flush("a")
    assert spans.names == ["span 0"]


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=6), batch=st.integers(1, 7))
def test_every_span_arrives_once_and_in_order(counts: list[int], batch: int) -> None:
    async def scenario() -> list[Span]:
        spans = Spans()
        async with exporter(spans, ExporterConfig(batch=batch, backoff_s=0.0)) as exported:
            sinks = [exported.sink(f"a{place}", token=place % 2) for place in range(len(counts))]
            threads = [
                threading.Thread(
                    target=lambda s=sink, c=count: [s.add(span(s.attempt_id, n)) for n in range(c)]
                )
                for sink, count in zip(sinks, counts, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            await asyncio.gather(*(exported.flush(sink.attempt_id) for sink in sinks))
        return [found for found_batch, _ in spans.appended for found in found_batch]

    found = asyncio.run(scenario())
    for place, count in enumerate(counts):
        names = [one.name for one in found if one.attempt_id == f"a{place}"]
        assert names == [f"span {number}" for number in range(count)]
