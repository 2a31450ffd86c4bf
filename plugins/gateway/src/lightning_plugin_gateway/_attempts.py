"""What the gateway remembers of each attempt: calls in flight, what it spent, answers that can be repeated."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable

from agentlightning.gateway import GatewayConfig
from lightning_plugin_gateway._errors import ApiError, Fault
from lightning_plugin_gateway._history import History
from lightning_plugin_gateway._overrides import Overrides

_KEPT_ANSWERS = 64
_KEPT_BYTES = 4 * 2**20
_MOST_ATTEMPTS = 20_000
_MOST_BYTES = 256 * 2**20


class Answer:
    """A call's answer as it was sent, for an SDK that asks for it again.

    Attributes:
        body: Exact bytes; None while the call is in flight and after it has failed.
        stream: They are server-sent events.
        forgotten: Nobody can ask for it any more.
    """

    __slots__ = ("_done", "_kept", "body", "forgotten", "stream")

    def __init__(self, *, stream: bool, kept: Callable[[int], None]) -> None:
        self.body: bytes | None = None
        self.stream = stream
        self.forgotten = False
        self._kept = kept
        self._done = asyncio.Event()

    def keep(self, body: bytes) -> None:
        """The call is recorded and this is its answer."""
        if not self.forgotten:
            self.body = body
            self._kept(len(body))
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
        tokens: How many tokens they took, prompts and answers together.
        cost: What they cost, in the currency of the upstreams' prices.
        limited: A span tells that a limit was reached.
        overrides: What its resources change in its calls; None until they were read.
        history: Its conversations, for `previous_response_id`.
    """

    def __init__(self, *, expires_at: float) -> None:
        self.calls = 0
        self.tokens = 0
        self.cost = 0.0
        self.limited = False
        self.overrides: Overrides | None = None
        self.history = History()
        self.in_flight = 0
        self.expires_at = expires_at
        self.idle = asyncio.Event()
        self._seen: dict[bytes, int] = {}
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._size = 0

    def begin(self, digest: bytes, *, stream: bool) -> Answer:
        """Makes room for the answer to a body with this digest; the newest of equal bodies is remembered."""
        if before := self._answers.pop(digest, None):
            self._forgets(before)
        answer = self._answers[digest] = Answer(stream=stream, kept=self._keeps)
        self._trim()
        return answer

    async def repeat(self, digest: bytes) -> tuple[bytes, bool] | None:
        """The recorded answer to an equal body and whether it is a stream, waiting for one in flight."""
        answer = self._answers.get(digest)
        body = await answer.wait() if answer else None
        return (body, answer.stream) if answer and body is not None else None

    def knows(self, digest: bytes) -> bool:
        """A call with such a body was begun here."""
        return digest in self._answers

    def occurrence(self, digest: bytes, *, retried: bool) -> int:
        """How many equal requests came before; one that is marked as a retry counts as the one it repeats."""
        before = self._seen.get(digest, 0)
        if retried and before:
            return before - 1
        self._seen[digest] = before + 1
        return before

    def count(self, config: GatewayConfig) -> None:
        """Counts a call that begins. Raises `ApiError` 429 if the attempt may make no more."""
        self.calls += 1
        if self.calls > config.max_calls:
            raise _limit(
                "too_many_calls", f"this attempt has made its {config.max_calls} calls (`max_calls`)"
            )
        if config.max_tokens is not None and self.tokens >= config.max_tokens:
            told = f"this attempt has taken {self.tokens} of its {config.max_tokens} tokens (`max_tokens`)"
            raise _limit("too_many_tokens", told)
        if config.max_cost is not None and self.cost >= config.max_cost:
            told = f"this attempt has spent {self.cost:g} of the {config.max_cost:g} that it may cost (`max_cost`)"
            raise _limit("too_costly", told)

    @property
    def kept_bytes(self) -> int:
        """What is kept to be asked for again."""
        return self.history.size_bytes + self._size

    def forget(self) -> None:
        """Keeps nothing of it any more; what it has spent stays known."""
        while self._answers:
            self._forgets(self._answers.popitem()[1])
        self.history = History()

    def _trim(self) -> None:
        while len(self._answers) > _KEPT_ANSWERS or (self._size > _KEPT_BYTES and len(self._answers) > 1):
            self._forgets(self._answers.popitem(last=False)[1])

    def _keeps(self, size_bytes: int) -> None:
        self._size += size_bytes

    def _forgets(self, answer: Answer) -> None:
        answer.forgotten = True
        self._size -= len(answer.body or b"")


def _limit(fault: Fault, message: str) -> ApiError:
    return ApiError(429, message, fault=fault, final=True)


class Attempts:
    """Attempts that call. Those that were silent longest are forgotten first, when there are many or they keep much.

    Attributes:
        live: Calls that belong to no attempt; they share what can be asked for again.
    """

    def __init__(self, *, ttl_s: float, clock: Callable[[], float]) -> None:
        self.live = AttemptCalls(expires_at=math.inf)
        self._ttl_s = ttl_s
        self._clock = clock
        self._calling: OrderedDict[str, AttemptCalls] = OrderedDict()
        self._released: OrderedDict[str, float] = OrderedDict()
        self._kept: dict[str, int] = {}
        self._kept_bytes = 0

    def enter(self, attempt_id: str) -> AttemptCalls:
        """Counts a call in. Raises `ApiError` 401 if the attempt was released."""
        if attempt_id in self._released:
            message = "the attempt that this key belongs to has ended; a new attempt has a key of its own"
            raise ApiError(401, message, fault="attempt_released", final=True)
        calls = self._calling.get(attempt_id)
        if calls is None:
            self._forget()
            calls = self._calling[attempt_id] = AttemptCalls(expires_at=self._clock() + self._ttl_s)
        self._calling.move_to_end(attempt_id)
        self.join(calls)
        return calls

    @staticmethod
    def join(calls: AttemptCalls) -> None:
        """Counts a call in."""
        calls.in_flight += 1
        calls.idle.clear()

    def leave(self, calls: AttemptCalls, attempt_id: str | None = None) -> None:
        """Counts a call out; of an attempt, if it is one's."""
        calls.in_flight -= 1
        if not calls.in_flight:
            calls.idle.set()
        if attempt_id is not None and attempt_id in self._calling:
            self._measure(attempt_id, calls.kept_bytes)
            for silent in [*self._kept] if self._kept_bytes > _MOST_BYTES else ():
                self._calling[silent].forget()
                self._measure(silent, 0)
                if self._kept_bytes <= _MOST_BYTES:
                    break

    def refuse(self, attempt_id: str) -> None:
        """Refuses calls to come."""
        self._released[attempt_id] = self._clock() + self._ttl_s

    async def release(self, attempt_id: str) -> None:
        """Refuses calls to come and returns when those in flight have ended."""
        self.refuse(attempt_id)
        calls = self._calling.get(attempt_id)
        if calls and calls.in_flight:
            await calls.idle.wait()
        self._drop(attempt_id)

    def _drop(self, attempt_id: str) -> None:
        self._calling.pop(attempt_id, None)
        self._measure(attempt_id, 0)

    def _measure(self, attempt_id: str, size_bytes: int) -> None:
        """Notes what an attempt keeps; the one that was measured last is the last in order."""
        self._kept_bytes += size_bytes - self._kept.pop(attempt_id, 0)
        if size_bytes:
            self._kept[attempt_id] = size_bytes

    def _forget(self) -> None:
        now = self._clock()
        while self._released and next(iter(self._released.values())) <= now:
            self._released.popitem(last=False)
        while self._calling:
            attempt_id, oldest = next(iter(self._calling.items()))
            if oldest.in_flight or (oldest.expires_at > now and len(self._calling) < _MOST_ATTEMPTS):
                break
            self._drop(attempt_id)
