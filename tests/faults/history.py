"""Histories: clients call at the same time, and each rollout's calls must fit into one order that the lifecycle allows.

A call takes effect at one moment between its call and its return (Herlihy and Wing, "Linearizability", 1990). Rollouts
are independent, so each one's history is searched by itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agentlightning.errors import LeaseLost
from agentlightning.types import Failure, FailureClass, RolloutConfig, RolloutRequest, Span, SpanSource
from faults.invariants import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.store import Store

_MAX_ATTEMPTS = 3
_CONFIG = RolloutConfig(max_attempts=_MAX_ATTEMPTS, retry_on=(FailureClass.INFRASTRUCTURE,))
_LONG_S = 3600.0  # no lease ends by itself: an end would be a call that nobody made
_ENDS = {
    "done": "succeeded",
    "done otherwise": "succeeded",
    "agent_error": "failed",
    "infrastructure": "failed",
}
_REACH = 5  # attempts that clients fight for


@dataclass(frozen=True)
class Call:
    """What one client asked about one rollout, when, and what it heard.

    Attributes:
        attempt: Number of the attempt it was about.
        token: Fencing token it gave.
        called: Nanoseconds of a clock that all clients share.
    """

    client: int
    verb: str
    attempt: int
    token: int
    detail: str
    result: object
    called: int
    returned: int


@dataclass(frozen=True)
class Model:
    """One rollout, as the lifecycle has it.

    Attributes:
        attempts: How each ended; empty while it is open.
        spans: (attempt, span) pairs.
    """

    status: str = "queued"
    attempts: tuple[str, ...] = ()
    spans: frozenset[tuple[int, str]] = frozenset()

    def apply(self, call: Call) -> tuple[Model, object]:
        """What the call does at this point, and what it hears."""
        return getattr(self, f"_{call.verb}")(call)  # type: ignore[no-any-return]

    def _lease(self, call: Call) -> tuple[Model, object]:
        if self.status != "queued":
            return self, "impossible"
        return replace(self, status="running", attempts=(*self.attempts, "")), len(self.attempts) + 1

    def _heartbeat(self, call: Call) -> tuple[Model, object]:
        if call.token != call.attempt:
            return self, "lost"
        end = self._end(call)
        return self, {"": "alive", "cancelled": "cancelled"}.get(end, "lost")

    def _finish(self, call: Call) -> tuple[Model, object]:
        end = self._end(call)
        if call.token != call.attempt or (end and end != call.detail):
            return self, "lost"
        if end:
            return self, self.status
        again = call.detail == "infrastructure" and len(self.attempts) < _MAX_ATTEMPTS
        status = "queued" if again else _ENDS[call.detail]
        return replace(self, status=status, attempts=(*self.attempts[:-1], call.detail)), status

    def _cancel(self, call: Call) -> tuple[Model, object]:
        if self.status not in {"queued", "running"}:
            return self, self.status
        attempts = self.attempts
        if self.status == "running":
            attempts = (*attempts[:-1], "cancelled")
        return replace(self, status="cancelled", attempts=attempts), "cancelled"

    def _get(self, call: Call) -> tuple[Model, object]:
        return self, (self.status, len(self.attempts))

    def _append(self, call: Call) -> tuple[Model, object]:
        if (call.attempt, call.detail) in self.spans:
            return self, "duplicate"
        late = bool(self._end(call)) or call.token < call.attempt
        return replace(self, spans=self.spans | {(call.attempt, call.detail)}), "late" if late else "stored"

    def _end(self, call: Call) -> str:
        if call.attempt > len(self.attempts):
            return "not yet"
        return self.attempts[call.attempt - 1]


def linearizable(calls: Sequence[Call]) -> bool:
    """Whether some order of the calls, which respects who returned before whom was called, is one of the model's."""
    ordered = sorted(calls, key=lambda call: call.called)
    everything = (1 << len(ordered)) - 1
    seen: set[tuple[int, Model]] = set()
    stack = [(0, Model())]
    while stack:
        done, model = stack.pop()
        if done == everything:
            return True
        if (done, model) in seen:
            continue
        seen.add((done, model))
        left = [(number, call) for number, call in enumerate(ordered) if not done >> number & 1]
        first_return = min(call.returned for _, call in left)
        for number, call in left:
            if call.called > first_return:
                break
            changed, result = model.apply(call)
            if result == call.result:
                stack.append((done | 1 << number, changed))
    return False


@dataclass
class History:
    """Calls by rollout, and the attempts that clients know of."""

    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    attempts: list[tuple[str, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of calls."""
        return sum(map(len, self.calls.values()))

    def check(self) -> Counter[str]:
        """Checks every rollout; counts calls by verb and result.

        Raises:
            Violation: A history fits into no order.
        """
        for rollout_id, calls in self.calls.items():
            if not linearizable(calls):
                told = "\n  ".join(map(repr, sorted(calls, key=lambda call: call.called)))
                raise Violation(f"no order explains the history of {rollout_id}:\n  {told}")
        return Counter(
            f"{call.verb} {'' if call.verb in {'get', 'lease'} else call.result}".strip()
            for calls in self.calls.values()
            for call in calls
        )


async def record(stores: Sequence[Store], *, calls: int, seed: int) -> History:
    """Lets one client per store call at random until there were so many calls."""
    history = History()
    await asyncio.gather(
        *(
            _Client(number, store, history, random.Random(f"{seed} {number}")).work(calls)
            for number, store in enumerate(stores)
        )
    )
    return history


class _Client:
    def __init__(self, number: int, store: Store, history: History, chance: random.Random) -> None:
        self._number = number
        self._store = store
        self._history = history
        self._chance = chance

    async def work(self, calls: int) -> None:
        while self._history.total < calls:
            await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.001)))
            if not self._history.attempts or self._chance.random() < 0.12:
                await self._lease()
            else:
                await self._touch(*self._chance.choice(self._history.attempts[-_REACH:]))

    async def _lease(self) -> None:
        called = time.monotonic_ns()
        leases = await self._store.rollouts.lease(f"client {self._number}", ttl_s=_LONG_S)
        for lease in leases:
            asked = Call(self._number, "lease", 0, 0, "", lease.attempt.token, called, time.monotonic_ns())
            self._history.calls[lease.rollout.id].append(asked)
            self._history.attempts.append((lease.rollout.id, lease.attempt.sequence))
        if not leases:
            await self._store.rollouts.enqueue([RolloutRequest(task=0, config=_CONFIG)])

    async def _touch(self, rollout_id: str, attempt: int) -> None:
        verb = self._chance.choice(("heartbeat", "heartbeat", "finish", "append", "get", "get", "cancel"))
        if verb == "cancel" and self._chance.random() < 0.6:
            verb = "get"
        token = attempt - (self._chance.random() < 0.1)
        detail = ""
        if verb == "finish":
            detail = self._chance.choice((*_ENDS, "infrastructure", "infrastructure"))
        elif verb == "append":
            detail = f"{self._chance.randrange(4):016x}"
        called = time.monotonic_ns()
        result = await getattr(self, f"_{verb}")(rollout_id, attempt, token, detail)
        returned = time.monotonic_ns()
        call = Call(self._number, verb, attempt, token, detail, result, called, returned)
        self._history.calls[rollout_id].append(call)

    async def _heartbeat(self, rollout_id: str, attempt: int, token: int, detail: str) -> str:
        try:
            beat = await self._store.rollouts.heartbeat(f"{rollout_id}.{attempt}", token=token, ttl_s=_LONG_S)
        except LeaseLost:
            return "lost"
        return "cancelled" if beat.cancelled else "alive"

    async def _finish(self, rollout_id: str, attempt: int, token: int, detail: str) -> str:
        options: dict[str, Any] = {"output": detail}
        if not detail.startswith("done"):
            options = {"failure": Failure(kind=FailureClass(detail), message="by hand")}
        try:
            rollout = await self._store.rollouts.finish(f"{rollout_id}.{attempt}", token=token, **options)
        except LeaseLost:
            return "lost"
        return rollout.status.value

    async def _append(self, rollout_id: str, attempt: int, token: int, detail: str) -> str:
        span = Span(
            rollout_id=rollout_id,
            attempt_id=f"{rollout_id}.{attempt}",
            span_id=detail,
            trace_id="0" * 32,
            name="span",
            operation="chat",
            source=SpanSource.EMIT,
            start_ns=0,
            end_ns=0,
        )
        result = await self._store.spans.append([span], token=token)
        return "stored" if result.stored else "late" if result.late else "duplicate"

    async def _get(self, rollout_id: str, attempt: int, token: int, detail: str) -> tuple[str, int]:
        rollout = await self._store.rollouts.get(rollout_id)
        return rollout.status.value, rollout.attempts

    async def _cancel(self, rollout_id: str, attempt: int, token: int, detail: str) -> str:
        (rollout,) = await self._store.rollouts.cancel([rollout_id])
        return rollout.status.value
