"""Writes calls down: durably, and before the client has the whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from agentlightning.errors import StoreError, StoreUnavailable
from agentlightning.gateway import AttemptGrant
from agentlightning.store import Store
from agentlightning.types import Span
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._storable import storable

_TRIES: Final = 3
_WAIT_S: Final = 0.1
_RUSH_S: Final = 0.005
"""Calls that end so soon after one another are recorded together."""
_GATHER_S: Final = 0.002
"""Longest that a call waits for others to be recorded with."""
_MOST: Final = 32
"""Spans of one commit: so many a store still writes in its caller's event loop."""
_MOST_SUSPECTS: Final = 4096


class Recorder:
    """Appends the spans of attempts. Calls that end in a rush share a commit; one by itself waits for nobody."""

    def __init__(self, store: Store, *, late: Callable[[str], None], in_flight: Callable[[], int]) -> None:
        """Prepares a recorder.

        Args:
            late: Told the id of an attempt that has ended, because a span of it came late.
            in_flight: How many calls are not over: when all of them wait, nobody else can join.
        """
        self._store = store
        self._late = late
        self._in_flight = in_flight
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._more = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._suspects: set[str] = set()
        self._rush_until = 0.0

    async def append(self, span: Span, grant: AttemptGrant, *, at_once: bool = False) -> None:
        """Returns when the span is kept.

        Args:
            at_once: It is recorded with what waits already, but waits for no others.

        Raises:
            ApiError: It cannot be kept: no answer is given unrecorded.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        rushed, self._rush_until = now < self._rush_until, now + _RUSH_S
        if not rushed or self._in_flight() < 2 or span.attempt_id in self._suspects:
            await self._alone(span, grant.token)
            return
        waiting = _Waiting(span, grant.token, loop.create_future())
        self._waiting.append(waiting)
        if at_once or len(self._waiting) >= min(self._in_flight(), _MOST):
            self._more.set()
        elif self._timer is None:
            self._timer = loop.call_later(_GATHER_S, self._more.set)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await waiting.done

    async def stop(self) -> None:
        """Ends its task; nothing waits any more."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            self._writer = None

    async def _write(self) -> None:
        """Writes down what waits, in one task for all: a store takes those that write at once for a crowd."""
        while True:
            await self._more.wait()
            self._more.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            if self._waiting:
                self._more.set()
            await self._together(batch)

    async def _together(self, batch: list[_Waiting]) -> None:
        for token in dict.fromkeys(waiting.token for waiting in batch):
            some = [waiting for waiting in batch if waiting.token == token]
            try:
                result = await self._store.spans.append([waiting.span for waiting in some], token=token)
            except Exception:  # noqa: BLE001 - of one of them, or of all: each finds out by itself
                await asyncio.gather(*[self._settle(waiting) for waiting in some])
                continue
            if result.late:  # one of them was: its next call finds out
                self._suspect([waiting.span.attempt_id for waiting in some])
            for waiting in some:
                waiting.end()

    def _suspect(self, attempt_ids: list[str]) -> None:
        if len(self._suspects) > _MOST_SUSPECTS:
            self._suspects.clear()
        self._suspects.update(attempt_ids)

    async def _settle(self, waiting: _Waiting) -> None:
        try:
            await self._alone(waiting.span, waiting.token)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
            waiting.end(error)
        else:
            waiting.end()

    async def _alone(self, span: Span, token: int) -> None:
        for failures in range(_TRIES):
            try:
                result = await self._store.spans.append([span], token=token)
            except StoreUnavailable as error:
                if failures == _TRIES - 1:
                    message = f"the call could not be recorded: {error}"
                    raise ApiError(503, message, fault="not_recorded", retry_after="1") from error
            except (StoreError, ValueError, TypeError) as error:
                kept = storable(span, error)
                if kept is not None:
                    await self._alone(kept, token)
                    return
                message = f"the call cannot be recorded: {error}"
                raise ApiError(500, message, fault="not_recorded", final=True) from error
            else:
                if result.late:
                    self._late(span.attempt_id)
                self._suspects.discard(span.attempt_id)
                return
            await asyncio.sleep(_WAIT_S * 2**failures)


class _Waiting:
    __slots__ = ("done", "span", "token")

    def __init__(self, span: Span, token: int, done: asyncio.Future[None]) -> None:
        self.span = span
        self.token = token
        self.done = done

    def end(self, error: Exception | None = None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
