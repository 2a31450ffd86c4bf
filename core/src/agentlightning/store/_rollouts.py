"""`store.rollouts` over any executor: checks and encodes at the edge, waits by notification."""

from __future__ import annotations

import builtins
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from agentlightning.errors import LimitExceeded, NotFound
from agentlightning.store import _rollout_operations as operations
from agentlightning.store import lifecycle
from agentlightning.store._codec import digest, pack
from agentlightning.store._executor import FEW, Executor
from agentlightning.store._limits import Limits
from agentlightning.store._notifier import Notifier, Topic
from agentlightning.store._queries import ALL_ROLLOUTS, Page, RolloutQuery
from agentlightning.store._rows import AttemptRow, RolloutRow, attempt_of, lease_of, rollout_of, rollout_row
from agentlightning.store._unit import Operation, Unit
from agentlightning.types import (
    Attempt,
    Completion,
    Failure,
    Heartbeat,
    Json,
    Lease,
    Rollout,
    RolloutRequest,
    RolloutStatus,
)

MAX_ID: Final = 200
"""Most characters of an id that a client chooses."""


class Rollouts:
    """The queue and lifecycle of rollouts; see `RolloutStore`."""

    def __init__(self, executor: Executor, notifier: Notifier, *, limits: Limits) -> None:
        self._executor = executor
        self._notifier = notifier
        self._limits = limits
        self._room = operations.QueueRoom(limits.queued)

    async def enqueue(
        self, requests: Sequence[RolloutRequest], *, idempotency_key: str | None = None
    ) -> list[Rollout]:
        """Adds rollouts in order."""
        check_batch(requests, most=self._limits.batch)
        for request in requests:
            check_request(request)
        # without a key nobody will ask for the digest
        fingerprint = b"" if idempotency_key is None else digest(pack(list(requests), what="requests"))
        rows = [rollout_row(request) for request in requests]
        for row in rows:
            if len(row.body) > self._limits.task_bytes:
                raise LimitExceeded(
                    f"the task of rollout {row.id!r} has {len(row.body)} bytes, the store takes"
                    f" {self._limits.task_bytes}; put large data elsewhere and name it in the task"
                )
        added = await self._executor.write(
            partial(operations.enqueue, rows=rows, key=idempotency_key, digest=fingerprint, room=self._room),
            light=len(rows) <= FEW,
        )
        return [rollout_of(row) for row in added]

    async def lease(
        self,
        worker: str,
        *,
        limit: int = 1,
        ttl_s: float = 30.0,
        wait_s: float = 0.0,
        run_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> builtins.list[Lease]:
        """Takes up to `limit` queued rollouts and creates their attempts, atomically.

        Should the caller be cancelled just when it has got some, they go back into the queue.
        """
        check_ttl(ttl_s)
        fingerprint = b"" if idempotency_key is None else digest(pack([worker, limit, run_id], what="lease"))
        take = partial(
            operations.lease,
            worker=worker,
            limit=limit,
            ttl_s=ttl_s,
            run_id=run_id,
            key=idempotency_key,
            digest=fingerprint,
        )
        until = time.monotonic() + wait_s
        while limit > 0:
            ticket = self._notifier.ticket(Topic.QUEUED)
            rows = await self._executor.write(take, undo=_give_back, light=limit <= FEW)
            left_s = until - time.monotonic()
            if rows is None:
                break
            if rows or left_s <= 0:
                return [lease_of(pair) for pair in rows]
            await self._notifier.wait(Topic.QUEUED, ticket, left_s, run_id=run_id)
        return []

    async def heartbeat(self, attempt_id: str, *, token: int, ttl_s: float = 30.0) -> Heartbeat:
        """Extends a lease and moves a leased attempt to running."""
        check_ttl(ttl_s)
        expires_at, cancelled = await self._executor.write(
            lambda unit: operations.heartbeat(unit, attempt_id, token=token, ttl_s=ttl_s), light=True
        )
        return Heartbeat(expires_at=expires_at, cancelled=cancelled)

    async def finish(
        self, attempt_id: str, *, token: int, output: Json = None, failure: Failure | None = None
    ) -> Rollout:
        """Ends an attempt: succeeded without `failure`, else by its kind; retries as the rollout's config says."""
        packed = None if output is None else pack(output, what=f"output of attempt {attempt_id!r}")
        if packed is not None and len(packed) > self._limits.task_bytes:
            raise LimitExceeded(
                f"the output of attempt {attempt_id!r} has {len(packed)} bytes, the store takes"
                f" {self._limits.task_bytes}; return less, or emit it as an object"
            )
        return rollout_of(
            await self._executor.write(
                lambda unit: operations.finish(unit, attempt_id, token=token, output=packed, failure=failure),
                light=True,
            )
        )

    async def cancel(self, rollout_ids: Sequence[str], *, reason: str = "") -> builtins.list[Rollout]:
        """Cancels what is not terminal yet; terminal rollouts stay as they are."""
        rows = await self._executor.write(lambda unit: operations.cancel(unit, rollout_ids, reason=reason))
        return [rollout_of(row) for row in rows]

    async def get(self, rollout_id: str) -> Rollout:
        """One rollout."""
        row = await self._executor.read(lambda unit: unit.tables.rollouts.get(rollout_id))
        if row is None:
            raise NotFound(f"there is no rollout {rollout_id!r} in this store")
        return rollout_of(row)

    async def attempts(self, rollout_ids: Sequence[str]) -> builtins.list[Attempt]:
        """All attempts of the rollouts, by rollout in the given order, then by sequence."""
        rows = await self._executor.read(
            lambda unit: [row for rollout_id in rollout_ids for row in unit.tables.attempts.of(rollout_id)]
        )
        return [attempt_of(row) for row in rows]

    async def list(
        self, query: RolloutQuery = ALL_ROLLOUTS, *, limit: int = 100, cursor: str | None = None
    ) -> Page[Rollout]:
        """A page of rollouts."""
        after = parse_cursor(cursor)
        rows = await self._executor.read(
            lambda unit: unit.tables.rollouts.find(query, limit=limit + 1, cursor=after)
        )
        more = str(rows[limit - 1].number) if 0 < limit < len(rows) else None
        return Page(items=tuple(rollout_of(row) for row in rows[:limit]), cursor=more)

    async def wait(
        self,
        rollout_ids: Sequence[str] | None = None,
        *,
        group: str | None = None,
        run_id: str | None = None,
        timeout_s: float | None = None,
    ) -> builtins.list[Rollout]:
        """Waits until all are terminal or the time is up; returns those that are."""
        if sum(one is not None for one in (rollout_ids, group, run_id)) != 1:
            raise ValueError("say what to wait for: exactly one of `rollout_ids`, `group` and `run_id`")
        until = None if timeout_s is None else time.monotonic() + timeout_s
        ticket = self._notifier.ticket(Topic.COMPLETED)
        if rollout_ids is None:
            query = RolloutQuery(group=group, run_id=run_id)
            ids = await self._executor.read(lambda unit: _ids(unit, query))
        else:
            ids = list(rollout_ids)
        after, pending = await self._executor.read(lambda unit: _pending(unit, ids))
        while pending:
            left_s = None if until is None else until - time.monotonic()
            if left_s is not None and left_s <= 0:
                break
            await self._notifier.wait(Topic.COMPLETED, ticket, left_s)
            ticket = self._notifier.ticket(Topic.COMPLETED)
            after, done = await self._executor.read(partial(_completed_ids, after=after))
            pending -= done
        found = await self._executor.read(lambda unit: unit.tables.rollouts.many(ids))
        rows = [found[rollout_id] for rollout_id in ids if rollout_id in found]
        return [rollout_of(row) for row in rows if lifecycle.rollout_ended(RolloutStatus(row.status))]

    async def completions(
        self, *, after: int = 0, run_id: str | None = None, limit: int = 100, wait_s: float = 0.0
    ) -> builtins.list[Completion]:
        """Rollouts that became terminal after the cursor, in order; waits up to `wait_s` for the first."""
        until = time.monotonic() + wait_s
        while True:
            ticket = self._notifier.ticket(Topic.COMPLETED)
            rows = await self._executor.read(
                lambda unit: unit.tables.rollouts.completed(after=after, run_id=run_id, limit=limit)
            )
            left_s = until - time.monotonic()
            if rows or left_s <= 0:
                return [Completion(cursor=row.completion or 0, rollout=rollout_of(row)) for row in rows]
            await self._notifier.wait(Topic.COMPLETED, ticket, left_s)


def check_batch(items: Sequence[object], *, most: int) -> None:
    """Lets a batch of sensible size pass.

    Raises:
        LimitExceeded: It is too long.
    """
    if len(items) > most:
        raise LimitExceeded(f"one call takes {most} items, got {len(items)}; send them in several")


def check_ttl(ttl_s: float) -> None:
    """Lets a usable duration pass.

    Raises:
        ValueError: It is not a positive, finite number.
    """
    if not (math.isfinite(ttl_s) and ttl_s > 0):
        raise ValueError(f"ttl_s must be a positive number of seconds, got {ttl_s!r}")


def parse_cursor(cursor: str | None) -> int | None:
    """The number a cursor stands for.

    Raises:
        ValueError: It is not one that a page gave.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 19):
        raise ValueError(
            f"{cursor!r} is not the cursor of a page; pass on what the previous page gave, or None"
        )
    return int(cursor)


def check_request(request: RolloutRequest) -> None:
    """Lets a request pass that can be stored and executed.

    Raises:
        LimitExceeded: Its id has no sensible length.
        ValueError: A number is out of range, or a text is not Unicode.
    """
    if request.id is not None and not 0 < len(request.id) <= MAX_ID:
        raise LimitExceeded(f"a rollout id has 1 to {MAX_ID} characters, got {len(request.id)}")
    if request.config.max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, got {request.config.max_attempts!r}")
    if not -(2**63) <= request.priority < 2**63:
        raise ValueError(f"a priority has 64 bits, got {request.priority!r}")
    for text in (request.id, request.run_id, request.group, request.resources):
        (text or "").encode()  # a lone surrogate is refused here, by every backend
    timeout_s = request.config.timeout_s
    if timeout_s is not None and not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s must be a positive number of seconds or None, got {timeout_s!r}")


def _give_back(rows: builtins.list[tuple[RolloutRow, AttemptRow]] | None) -> Operation[None]:
    return lambda unit: operations.give_back(unit, [attempt.id for _, attempt in rows or ()])


def _ids(unit: Unit, query: RolloutQuery) -> builtins.list[str]:
    found: list[str] = []
    cursor: int | None = None
    while rows := unit.tables.rollouts.find(query, limit=1000, cursor=cursor):
        found += (row.id for row in rows)
        cursor = rows[-1].number
    return found


def _pending(unit: Unit, rollout_ids: Sequence[str]) -> tuple[int, set[str]]:
    found = unit.tables.rollouts.many(rollout_ids)
    for rollout_id in rollout_ids:
        if rollout_id not in found:
            raise NotFound(f"cannot wait for rollout {rollout_id!r}: there is none in this store")
    pending = {name for name, row in found.items() if not lifecycle.rollout_ended(RolloutStatus(row.status))}
    return unit.tables.rollouts.last_completion(), pending


def _completed_ids(unit: Unit, *, after: int) -> tuple[int, set[str]]:
    done: set[str] = set()
    while rows := unit.tables.rollouts.completed(after=after, run_id=None, limit=1000):
        done.update(row.id for row in rows)
        after = rows[-1].completion or after
    return after, done
