"""Stores that break one promise each: every check of this folder has to catch the ones that are its business."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import msgspec

from agentlightning.errors import AglError, LeaseLost
from agentlightning.types import Heartbeat, Lease, RolloutStatus, Span

if TYPE_CHECKING:
    from agentlightning.store import Store

Fault = Callable[..., Awaitable[Any]]
"""Replaces a method; gets the broken store first."""


class _Part:
    def __init__(self, broken: BrokenStore, name: str, faults: Mapping[str, Fault]) -> None:
        self._broken = broken
        self._part = getattr(broken.real, name)
        self._name = name
        self._faults = faults

    def __getattr__(self, method: str) -> Any:
        fault = self._faults.get(f"{self._name}.{method}")
        return getattr(self._part, method) if fault is None else functools.partial(fault, self._broken)


class BrokenStore:
    """A store with one fault, named in `FAULTS`.

    Attributes:
        real: What it is apart from that.
        seen: What a fault remembers.
        later: What a fault still has to do.
    """

    def __init__(self, real: Store, fault: str) -> None:
        faults = FAULTS[fault]
        self.real = real
        self.seen: dict[str, Any] = {}
        self.later: set[asyncio.Task[None]] = set()
        self.url = real.url
        self.rollouts = _Part(self, "rollouts", faults)
        self.spans = _Part(self, "spans", faults)
        self.resources = _Part(self, "resources", faults)
        self.runs = _Part(self, "runs", faults)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def __aenter__(self) -> Self:
        await self.real.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.real.__aexit__(*exc)


async def _finish_ignores_fencing(broken: BrokenStore, attempt_id: str, *, token: int, **options: Any) -> Any:
    """Ends the newest attempt, whoever asks."""
    rollout_id, _, _ = attempt_id.rpartition(".")
    newest = (await broken.real.rollouts.attempts([rollout_id]))[-1]
    return await broken.real.rollouts.finish(newest.id, token=newest.token, **options)


async def _heartbeat_revives(broken: BrokenStore, attempt_id: str, *, token: int, ttl_s: float = 30.0) -> Any:
    """Answers the dead as if they lived."""
    try:
        return await broken.real.rollouts.heartbeat(attempt_id, token=token, ttl_s=ttl_s)
    except LeaseLost:
        return Heartbeat(expires_at=2e9)


async def _append_drops_one(broken: BrokenStore, spans: Sequence[Span], *, token: int | None = None) -> Any:
    """Says that it stored all."""
    result = await broken.real.spans.append(spans[1:] if len(spans) > 1 else spans, token=token)
    return msgspec.structs.replace(result, stored=result.stored + (len(spans) > 1))


async def _append_answers_first(
    broken: BrokenStore, spans: Sequence[Span], *, token: int | None = None
) -> Any:
    """Acknowledges, and commits a moment later."""
    result = await broken.real.spans.append(spans[:0], token=token)
    writing = asyncio.create_task(_write_later(broken.real, spans, token))
    broken.later.add(writing)
    writing.add_done_callback(broken.later.discard)
    return msgspec.structs.replace(result, stored=len(spans))


async def _write_later(real: Store, spans: Sequence[Span], token: int | None) -> None:
    await asyncio.sleep(0.2)
    try:
        await real.spans.append(spans, token=token)
    except AglError:
        return


async def _enqueue_forgets_keys(
    broken: BrokenStore, requests: Any, *, idempotency_key: str | None = None
) -> Any:
    del idempotency_key
    return await broken.real.rollouts.enqueue(requests)


async def _lease_forgets_keys(broken: BrokenStore, worker: str, **options: Any) -> Any:
    options.pop("idempotency_key", None)
    return await broken.real.rollouts.lease(worker, **options)


async def _lease_hands_out_twice(broken: BrokenStore, worker: str, **options: Any) -> Any:
    """Hands out what another worker has, when nothing else is left."""
    found = await broken.real.rollouts.lease(worker, **options)
    if not found:
        attempts = await broken.real.rollouts.attempts(
            [each.id for each in (await broken.real.rollouts.list()).items]
        )
        for attempt in attempts:
            rollout = await broken.real.rollouts.get(attempt.rollout_id)
            if rollout.status is RolloutStatus.RUNNING and attempt.sequence == rollout.attempts:
                return [Lease(rollout=rollout, attempt=attempt)]
    return found


async def _finish_only_says_so(broken: BrokenStore, attempt_id: str, *, token: int, **options: Any) -> Any:
    """Answers with what would be, and does nothing."""
    rollout_id, _, sequence = attempt_id.rpartition(".")
    rollout = await broken.real.rollouts.get(rollout_id)
    if int(sequence) % 2 and options.get("failure") is None and rollout.status is RolloutStatus.RUNNING:
        return msgspec.structs.replace(rollout, status=RolloutStatus.SUCCEEDED, output=options.get("output"))
    return await broken.real.rollouts.finish(attempt_id, token=token, **options)


async def _get_is_behind(broken: BrokenStore, rollout_id: str) -> Any:
    """Answers from a cache."""
    fresh = await broken.real.rollouts.get(rollout_id)
    return broken.seen.setdefault(rollout_id, fresh)


FAULTS: Mapping[str, Mapping[str, Fault]] = {
    "finish ignores fencing": {"rollouts.finish": _finish_ignores_fencing},
    "heartbeat revives": {"rollouts.heartbeat": _heartbeat_revives},
    "append drops one": {"spans.append": _append_drops_one},
    "append answers first": {"spans.append": _append_answers_first},
    "enqueue forgets keys": {"rollouts.enqueue": _enqueue_forgets_keys},
    "lease forgets keys": {"rollouts.lease": _lease_forgets_keys},
    "lease hands out twice": {"rollouts.lease": _lease_hands_out_twice},
    "finish only says so": {"rollouts.finish": _finish_only_says_so},
    "get is behind": {"rollouts.get": _get_is_behind},
}
"""Faults by name."""
