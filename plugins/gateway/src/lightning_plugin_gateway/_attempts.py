"""What the gateway remembers of each attempt: calls in flight, answers that can be repeated, and that it is over."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from lightning_plugin_gateway._errors import ApiError

_KEPT_ANSWERS = 64
_KEPT_BYTES = 4 * 2**20


class Answer:
    """A call's answer as it was sent, for an SDK that asks for it again.

    Attributes:
        body: Exact bytes; None while the call is in flight and after it has failed.
        stream: They are server-sent events.
    """

    __slots__ = ("_done", "body", "stream")

    def __init__(self, *, stream: bool) -> None:
        self.body: bytes | None = None
        self.stream = stream
        self._done = asyncio.Event()

    def keep(self, body: bytes) -> None:
        """The call is recorded and this is its answer."""
        self.body = body
        self._done.set()

    def drop(self) -> None:
        """The call ended without an answer worth repeating; no-op after `keep`."""
        self._done.set()

    async def wait(self) -> bytes | None:
        """The answer's bytes once the call has ended; None if it failed."""
        await self._done.wait()
        return self.body


class AttemptCalls:
    """Calls of one attempt. For use in one event loop.

    Attributes:
        calls: How many calls were begun, repeated answers not counted.
    """

    def __init__(self, *, expires_at: float) -> None:
        self.calls = 0
        self.in_flight = 0
        self.expires_at = expires_at
        self.idle = asyncio.Event()
        self._seen: dict[bytes, int] = {}
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def begin(self, digest: bytes, *, stream: bool) -> Answer:
        """Makes room for the answer to a body with this digest; the newest of equal bodies is remembered."""
        answer = self._answers[digest] = Answer(stream=stream)
        self._answers.move_to_end(digest)
        self._trim()
        return answer

    async def repeat(self, digest: bytes) -> tuple[bytes, bool] | None:
        """The recorded answer to an equal body and whether it is a stream, waiting for one in flight."""
        answer = self._answers.get(digest)
        body = await answer.wait() if answer else None
        return (body, answer.stream) if answer and body is not None else None

    def occurrence(self, digest: bytes, *, retried: bool) -> int:
        """How many equal requests came before; one that is marked as a retry counts as the one it repeats."""
        before = self._seen.get(digest, 0)
        if retried and before:
            return before - 1
        self._seen[digest] = before + 1
        return before

    def _trim(self) -> None:
        size = sum(len(answer.body or b"") for answer in self._answers.values())
        while len(self._answers) > _KEPT_ANSWERS or size > _KEPT_BYTES:
            _, oldest = self._answers.popitem(last=False)
            size -= len(oldest.body or b"")


class Attempts:
    """Attempts that call. Memory is bounded by the lifetime of keys: what a key outlives is forgotten with it."""

    def __init__(self, *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._calling: OrderedDict[str, AttemptCalls] = OrderedDict()
        self._released: OrderedDict[str, float] = OrderedDict()

    def enter(self, attempt_id: str) -> AttemptCalls:
        """Counts a call in. Raises `ApiError` 401 if the attempt was released."""
        if attempt_id in self._released:
            message = "the attempt that this key belongs to has ended; a new attempt has a key of its own"
            raise ApiError(401, message, fault="attempt_released", final=True)
        calls = self._calling.get(attempt_id)
        if calls is None:
            self._forget()
            calls = self._calling[attempt_id] = AttemptCalls(expires_at=self._clock() + self._ttl_s)
        calls.in_flight += 1
        calls.idle.clear()
        return calls

    @staticmethod
    def leave(calls: AttemptCalls) -> None:
        """Counts a call out."""
        calls.in_flight -= 1
        if not calls.in_flight:
            calls.idle.set()

    def refuse(self, attempt_id: str) -> None:
        """Refuses calls to come."""
        self._released[attempt_id] = self._clock() + self._ttl_s

    async def release(self, attempt_id: str) -> None:
        """Refuses calls to come and returns when those in flight have ended."""
        self.refuse(attempt_id)
        calls = self._calling.get(attempt_id)
        if calls and calls.in_flight:
            await calls.idle.wait()
        self._calling.pop(attempt_id, None)

    def _forget(self) -> None:
        now = self._clock()
        while self._released and next(iter(self._released.values())) <= now:
            self._released.popitem(last=False)
        while self._calling:
            attempt_id, oldest = next(iter(self._calling.items()))
            if oldest.expires_at > now or oldest.in_flight:
                break
            del self._calling[attempt_id]
