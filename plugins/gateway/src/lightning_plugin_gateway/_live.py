"""Live traffic: calls that belong to no attempt, each recorded as a rollout of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.store import AttemptRecord, Record, RolloutRecord, SpanRecord, Store
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Failure,
    FailureClass,
    Mode,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Span,
    SpanStatus,
)
from lightning_plugin_gateway._storable import storable

_log = logging.getLogger(__name__)
PATIENCE_S: Final = 2.0
"""Longest that an answer waits for its record, in seconds."""
_MOST_WAITING = 10_000
_MOST_BYTES = 64 * 2**20
_BATCH = 100
_AGAIN_S = 0.5
_LONGEST_AGAIN_S = 10.0
_LAST_S = 5.0


class LiveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What became of live calls.

    Attributes:
        recorded: Calls in the store.
        waiting: Calls that are kept in memory until the store takes them.
        dropped: Calls that are lost, because the store was away for too long or refused them.
    """

    recorded: int
    waiting: int
    dropped: int


class LiveRecorder:
    """Records live calls in the background, in order. Traffic neither fails nor waits long because of the store.

    An answer waits up to `PATIENCE_S` for its record. While the store is away nobody waits: calls are kept in memory,
    at most 10 000 of them and 64 MiB; then the oldest are dropped, which is counted and logged.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        self._recorded = self._dropped = self._told = 0
        self._away = False
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> LiveStatus:
        """Counts so far."""
        return LiveStatus(recorded=self._recorded, waiting=len(self._waiting), dropped=self._dropped)

    async def append(self, span: Span, *, size_bytes: int) -> None:
        """Returns when the call is kept, or is waiting to be."""
        waiting = _Waiting(span, size_bytes)
        self._waiting.append(waiting)
        self._size += size_bytes
        self._trim()
        self._more.set()
        if self._task is None:
            self._task = asyncio.create_task(self._record())
        if not self._away:
            await asyncio.wait([waiting.done], timeout=PATIENCE_S)
            self._away = not waiting.done.done()

    async def stop(self) -> None:
        """Records what is waiting, as long as the store takes it and for no more than five seconds."""
        if self._task is None:
            return
        deadline = asyncio.get_running_loop().time() + _LAST_S
        while self._waiting and not self._away and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait([self._waiting[-1].done], timeout=0.1)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self._waiting:
            self._drop(len(self._waiting), "the gateway stops while the store is away")
            self._waiting.clear()

    async def _record(self) -> None:
        wait_s = _AGAIN_S
        while True:
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
            batch = [self._waiting[place] for place in range(min(len(self._waiting), _BATCH))]
            try:
                await self._load(batch)
            except OSError as error:
                if not self._away:
                    _log.warning("live calls are kept in memory while the store is away: %s", error)
                self._away = True
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_AGAIN_S)
            else:
                self._away, wait_s = False, _AGAIN_S

    async def _load(self, batch: list[_Waiting]) -> None:
        try:
            await self._store.load([record for waiting in batch for record in waiting.records()])
            self._recorded += self._remove(batch)
        except OSError:  # `StoreUnavailable` is one
            raise
        except Exception as error:  # noqa: BLE001 - a store is a plugin: what it makes of one call ends no recording
            if len(batch) > 1:
                for waiting in batch:
                    await self._load([waiting])
            elif kept := storable(batch[0].span, error):
                batch[0].span = kept
                await self._load(batch)
            else:
                self._drop(self._remove(batch), f"the store refuses it: {error}")

    def _remove(self, batch: list[_Waiting]) -> int:
        """Takes off what was dealt with; what was dropped meanwhile is gone already."""
        removed = 0
        for waiting in batch:
            if self._waiting and self._waiting[0] is waiting:
                self._waiting.popleft()
                self._size -= waiting.size_bytes
                removed += 1
            waiting.end()
        return removed

    def _trim(self) -> None:
        count = 0
        while len(self._waiting) > _MOST_WAITING or (self._size > _MOST_BYTES and len(self._waiting) > 1):
            oldest = self._waiting.popleft()
            self._size -= oldest.size_bytes
            oldest.end()
            count += 1
        if count:
            self._drop(count, "too much is waiting for the store")

    def _drop(self, count: int, reason: str) -> None:
        self._dropped += count
        if self._dropped >= 2 * self._told or not self._told:
            self._told = self._dropped
            _log.error("%d live calls were dropped so far, the last because %s", self._dropped, reason)


class _Waiting:
    __slots__ = ("done", "ended_at", "size_bytes", "span")

    def __init__(self, span: Span, size_bytes: int) -> None:
        self.span = span
        self.ended_at = time.time()
        self.size_bytes = size_bytes
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def records(self) -> list[Record]:
        return _records(self.span, ended_at=self.ended_at)


def _records(span: Span, *, ended_at: float) -> list[Record]:
    """A rollout that is over, with one attempt and one span."""
    failure = None
    if span.status is not SpanStatus.OK:
        kind = FailureClass.INFRASTRUCTURE if span.status is SpanStatus.ERROR else FailureClass.CANCELLED
        failure = Failure(kind=kind, message=span.error or "the client left before the end of the answer")
    began_at = span.start_ns / 1e9
    said = span.attributes.get(semconv.OUTPUT_MESSAGES)
    rollout = Rollout(
        id=span.rollout_id,
        task=span.attributes.get(semconv.INPUT_MESSAGES),
        mode=Mode.TRAIN,
        run_id=None,
        group=None,
        sample=0,
        seed=None,
        resources=None,
        config=RolloutConfig(max_attempts=1),
        priority=0,
        metadata={"source": "live"},
        status=RolloutStatus.FAILED if failure else RolloutStatus.SUCCEEDED,
        attempts=1,
        created_at=began_at,
        finished_at=ended_at,
        output=said[0] if isinstance(said, list) and said else None,
        failure=failure,
    )
    attempt = Attempt(
        id=span.attempt_id,
        rollout_id=span.rollout_id,
        sequence=1,
        worker="gateway",
        token=1,
        status=AttemptStatus.FAILED if failure else AttemptStatus.SUCCEEDED,
        leased_at=began_at,
        expires_at=ended_at,
        finished_at=ended_at,
        failure=failure,
    )
    recorded = msgspec.structs.replace(span, sequence=1)
    return [RolloutRecord(rollout=rollout), AttemptRecord(attempt=attempt), SpanRecord(span=recorded)]
