"""Brings finished spans to the store: bounded, batched over all attempts of the process, off the agent's path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from agentlightning.errors import AglError, StoreError, StoreUnavailable
from agentlightning.store import SpanStore
from agentlightning.types import Span

_log = logging.getLogger("agentlightning.capture")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterConfig:
    """How spans are exported.

    Attributes:
        capacity: Spans waiting before threads that add more have to wait; the event loop's own thread, which must
            not wait, may go on to twice as many before spans are dropped.
        batch: Most spans per append.
        interval_s: Longest time a span waits for others, in seconds.
        patience_s: How long a thread waits for room before its span is dropped, in seconds.
        tries: How often an append is tried while the store is unavailable.
        backoff_s: Pause after the first failed try, in seconds; doubles with each.
    """

    capacity: int = 8192
    batch: int = 512
    interval_s: float = 0.5
    patience_s: float = 30.0
    tries: int = 8
    backoff_s: float = 0.05


class AttemptSink:
    """The spans of one attempt on their way to the store."""

    def __init__(self, exporter: Exporter, attempt_id: str, token: int | None) -> None:
        self.attempt_id = attempt_id
        self.token = token
        self.pending: list[Span] = []
        self.waiters: list[asyncio.Future[None]] = []
        self.lost = 0
        self.error: AglError | None = None
        self._exporter = exporter

    def add(self, span: Span) -> None:
        """Takes a span, from any thread; waits only while the exporter is full."""
        self._exporter.add(self, span)


_Batch = list[tuple[AttemptSink, Span]]


class Exporter:
    """Exports the spans of all attempts in this process from one task; an async context manager.

    Args:
        spans: Where they go.
        config: Sizes and patience.

    Attributes:
        dropped: Spans that found no room, or that the store refused.
    """

    def __init__(self, spans: SpanStore, *, config: ExporterConfig = ExporterConfig()) -> None:
        self.dropped = 0
        self._spans = spans
        self._config = config
        self._room = threading.Condition()
        self._waiting = 0
        self._closing = False
        self._dirty: dict[AttemptSink, None] = {}
        self._sinks: weakref.WeakValueDictionary[str, AttemptSink] = weakref.WeakValueDictionary()
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._task = asyncio.create_task(self._run(), name="span-exporter")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closing = True
        self._wake.set()
        await self._task
        if self.dropped or self._waiting:
            _log.warning("%d spans were not stored", self.dropped + self._waiting)

    def sink(self, attempt_id: str, *, token: int | None = None) -> AttemptSink:
        """Where the spans of an attempt go; they are appended with its fencing token."""
        sink = AttemptSink(self, attempt_id, token)
        self._sinks[attempt_id] = sink
        return sink

    async def flush(self, attempt_id: str) -> None:
        """Returns once every span that was added to the attempt before is durable.

        Raises:
            StoreUnavailable: The store stayed away, or spans of this attempt were dropped: its capture has a hole.
            AglError: The store refused a span; the others are stored. An error is told once.
        """
        if asyncio.get_running_loop() is not self._loop:
            flushing = asyncio.run_coroutine_threadsafe(self.flush(attempt_id), self._loop)
            await asyncio.wrap_future(flushing)
            return
        sink = self._sinks.get(attempt_id)
        if sink is None:
            return
        flushed = self._loop.create_future()
        with self._room:
            sink.waiters.append(flushed)
            self._dirty[sink] = None
        self._wake.set()
        if self._task.done():
            await self._drain()
        await flushed

    def add(self, sink: AttemptSink, span: Span) -> None:
        """Queues a span of one of this exporter's sinks."""
        with self._room:
            if not self._has_room():
                sink.lost += 1
                self.dropped += 1
                return
            sink.pending.append(span)
            self._dirty[sink] = None
            self._waiting += 1
            full = self._waiting % self._config.batch == 0
        if full:
            self._loop.call_soon_threadsafe(self._wake.set)

    def _has_room(self) -> bool:
        """Whether a span may be queued; waits for it where waiting does no harm. Called with the lock."""
        capacity = self._config.capacity
        if self._waiting < capacity:
            return True
        if threading.get_ident() == self._thread:
            return self._waiting < 2 * capacity
        self._loop.call_soon_threadsafe(self._wake.set)
        return self._room.wait_for(lambda: self._waiting < capacity, self._config.patience_s)

    async def _run(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.interval_s):
                    await self._wake.wait()
            self._wake.clear()
            await self._drain()
        await self._drain()

    async def _drain(self) -> None:
        """Writes what is waiting now; flushes that wait for it learn how it went."""
        with self._room:
            taken = [(sink, sink.pending, sink.waiters) for sink in self._dirty]
            for sink in self._dirty:
                sink.pending, sink.waiters = [], []
            self._dirty.clear()
        batches = self._batches((sink, span) for sink, spans, _ in taken for span in spans)
        unsent: _Batch = []
        away: StoreUnavailable | None = None
        for batch in batches:
            away = away or await self._write(batch)
            if away is not None:
                unsent += batch
        self._settle(unsent, sent=sum(len(batch) for batch in batches) - len(unsent))
        behind = {sink for sink, _ in unsent}
        for sink, _, waiters in taken:
            if waiters:
                _resolve(waiters, away if sink in behind else _fault(sink))

    def _batches(self, found: Iterable[tuple[AttemptSink, Span]]) -> list[_Batch]:
        """Spans that can be appended together: one token each, and not too many."""
        by_token: dict[int | None, _Batch] = defaultdict(list)
        for sink, span in found:
            by_token[sink.token].append((sink, span))
        size = self._config.batch
        return [same[at : at + size] for same in by_token.values() for at in range(0, len(same), size)]

    def _settle(self, unsent: _Batch, *, sent: int) -> None:
        """Puts what could not be written back in front, and lets threads that wait for room go on."""
        back: dict[AttemptSink, list[Span]] = defaultdict(list)
        for sink, span in unsent:
            back[sink].append(span)
        with self._room:
            for sink, spans in back.items():
                sink.pending[:0] = spans
                self._dirty[sink] = None
            self._waiting -= sent
            self._room.notify_all()

    async def _write(self, batch: _Batch) -> StoreUnavailable | None:
        """Appends a batch; returns the error if the store stays away. What it refuses is recorded and left out."""
        pause_s = self._config.backoff_s
        for left in reversed(range(self._config.tries)):
            try:
                await self._spans.append([span for _, span in batch], token=batch[0][0].token)
            except StoreUnavailable as error:
                if not left:
                    return error
                await asyncio.sleep(pause_s)
                pause_s *= 2
            except Exception as error:  # noqa: BLE001 - whatever a store raises belongs to whoever flushes
                return await self._write_halves(batch, error)
            else:
                return None
        return None

    async def _write_halves(self, batch: _Batch, error: Exception) -> StoreUnavailable | None:
        """A batch is stored or refused as one: finds the spans that are refused, so that the others are stored."""
        if len(batch) > 1:
            middle = len(batch) // 2
            return await self._write(batch[:middle]) or await self._write(batch[middle:])
        sink, span = batch[0]
        with self._room:
            self.dropped += 1
        if not isinstance(error, AglError):
            error = StoreError(f"span {span.name!r} cannot be stored: {type(error).__name__}: {error}")
        sink.error = error
        _log.warning("span %r of attempt %s is refused: %s", span.name, sink.attempt_id, error)
        return None


def _fault(sink: AttemptSink) -> AglError | None:
    """What went wrong since the last flush: it is told once, so that a failed attempt can still be finished."""
    lost, error = sink.lost, sink.error
    sink.lost, sink.error = 0, None
    if lost:
        return StoreUnavailable(
            f"{lost} spans of attempt {sink.attempt_id} were dropped: the store is slower than the agents; "
            "lower the concurrency"
        )
    return error


def _resolve(waiters: Iterable[asyncio.Future[None]], error: AglError | None) -> None:
    for waiter in waiters:
        if waiter.done():  # whoever waited was cancelled
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
