"""What the store does with rollouts and attempts, inside a transaction that began with a `sweep`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import msgspec

from agentlightning.errors import Conflict, LeaseLost, LimitExceeded, NotFound
from agentlightning.store import lifecycle
from agentlightning.store._codec import pack, unpack
from agentlightning.store._rows import AttemptRow, RolloutRow, as_enqueued, config_of
from agentlightning.store._unit import Unit
from agentlightning.types import (
    AttemptStatus,
    Failure,
    FailureClass,
    ResourceState,
    RolloutStatus,
)

_SWEEP = 1000  # attempts expired in one go, so that one transaction stays short


class QueueRoom:
    """How many rollouts the queue still takes. It is counted anew when it seems used up, as leases make room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = 0

    def take(self, unit: Unit, count: int) -> None:
        """Lets so many more in.

        Raises:
            LimitExceeded: The queue is full.
        """
        if self._left < count:
            queued = unit.tables.rollouts.queue_length()
            self._left = self._most - queued
            if self._left < count:
                raise LimitExceeded(
                    f"the queue has {queued} rollouts and {count} more came; it takes {self._most}:"
                    " wait until some are done"
                )
        self._left -= count


def enqueue(
    unit: Unit, rows: Sequence[RolloutRow], *, key: str | None, digest: bytes, room: QueueRoom
) -> list[RolloutRow]:
    """Adds rollouts, or finds those that the same key added before."""
    table = unit.tables.rollouts
    known = recalled(unit, key, digest)
    if known is not None:
        return _enqueued_before(unit, known, key=key)
    chosen = [row.id for row in rows if row.id]
    rows = [
        msgspec.structs.replace(row, id=row.id or f"ro-{unit.new_id()}", created_at=unit.now) for row in rows
    ]
    ids = [row.id for row in rows]
    taken = [*(table.many(chosen) if chosen else ()), *_repeated(ids)]  # a drawn id is not looked for
    if taken:
        raise Conflict(
            f"rollout id {taken[0]!r} is taken; ids are unique in the store, and nothing was enqueued"
        )
    room.take(unit, len(rows))
    table.add(rows)
    if key is not None:
        unit.tables.keys.remember(key, digest=digest, ids=ids, now=unit.now)
    for row in rows:
        unit.changes.queue(row.run_id)
    return rows


def lease(
    unit: Unit,
    *,
    worker: str,
    limit: int,
    ttl_s: float,
    run_id: str | None,
    key: str | None,
    digest: bytes,
) -> list[tuple[RolloutRow, AttemptRow]] | None:
    """Takes queued rollouts and creates their attempts, or finds those that the same key took before.

    Returns:
        None if the key took some before and they are over: a request that was delivered late must not take others,
        for whoever sent it has gone on since.
    """
    known = recalled(unit, key, digest)
    if known is not None:
        attempts = [unit.tables.attempts.get(attempt_id) for attempt_id in known]
        held = [one for one in attempts if one and not lifecycle.attempt_ended(AttemptStatus(one.status))]
        return [(_rollout(unit, attempt.rollout_id), attempt) for attempt in held] or None
    rows = unit.tables.rollouts.queued(limit=limit, run_id=run_id)
    if not rows:
        return []
    choose = _Choice(unit)
    leased = [
        _lease(unit, row, worker=worker, ttl_s=ttl_s, resources=row.pinned or choose(row)) for row in rows
    ]
    if key is not None:
        ids = [attempt.id for _, attempt in leased]
        unit.tables.keys.remember(key, digest=digest, ids=ids, now=unit.now)
    return leased


def give_back(unit: Unit, attempt_ids: Sequence[str]) -> None:
    """Puts rollouts back into the queue whose worker never learned that it has them."""
    for attempt_id in attempt_ids:
        row = _attempt(unit, attempt_id)
        if row.status != AttemptStatus.LEASED:
            continue
        failure = Failure(kind=FailureClass.LOST, message=f"worker {row.worker!r} went away before it began")
        _close(unit, row, AttemptStatus.LOST, failure=pack(failure, what="failure"))
        _requeue(unit, _rollout(unit, row.rollout_id))


def recalled(unit: Unit, key: str | None, digest: bytes) -> tuple[str, ...] | None:
    """The ids answered under an idempotency key; None for a new one.

    Raises:
        Conflict: The key came before with another payload.
    """
    known = None if key is None else unit.tables.keys.recall(key)
    if known is None:
        return None
    if known[0] != digest:
        raise Conflict(
            f"idempotency key {key!r} came before with other arguments; use a new key for new work"
        )
    return known[1]


def heartbeat(unit: Unit, attempt_id: str, *, token: int, ttl_s: float) -> tuple[float, bool]:
    """Extends a lease; its new end, and whether the rollout was cancelled."""
    row = _attempt(unit, attempt_id)
    _check_token(row, token)
    status = AttemptStatus(row.status)
    if status is AttemptStatus.CANCELLED:
        return row.expires_at, True
    if lifecycle.attempt_ended(status):
        raise _ended(row)
    expires_at = unit.now + ttl_s
    if status is AttemptStatus.LEASED:
        lifecycle.check_attempt_move(status, AttemptStatus.RUNNING)
    unit.tables.attempts.save(
        msgspec.structs.replace(
            row,
            status=AttemptStatus.RUNNING.value,
            expires_at=expires_at,
            due_at=lifecycle.due_at(expires_at=expires_at, deadline_at=row.deadline_at),
        )
    )
    return expires_at, False


def finish(
    unit: Unit, attempt_id: str, *, token: int, output: bytes | None, failure: Failure | None
) -> RolloutRow:
    """Ends an attempt and, unless it is tried again, its rollout."""
    # most likely this is its rollout; asked for first, a medium that is far away fetches both at once
    likely = unit.tables.rollouts.get(attempt_id.rpartition(".")[0])
    row = _attempt(unit, attempt_id)
    _check_token(row, token)
    rollout = likely if likely and likely.id == row.rollout_id else _rollout(unit, row.rollout_id)
    ending = lifecycle.attempt_ending(None if failure is None else failure.kind)
    if lifecycle.attempt_ended(AttemptStatus(row.status)):
        packed = None if failure is None else pack(failure, what="failure")
        if (row.status, row.output, row.failure) == (ending, output, packed):
            return rollout
        raise _ended(row)
    return _end(unit, row, rollout, failure=failure, output=output)


def cancel(unit: Unit, rollout_ids: Sequence[str], *, reason: str) -> list[RolloutRow]:
    """Cancels what is not terminal."""
    found = unit.tables.rollouts.many(rollout_ids)
    for rollout_id in rollout_ids:
        if rollout_id not in found:
            raise NotFound(f"cannot cancel rollout {rollout_id!r}: there is none; nothing was cancelled")
    failure = Failure(kind=FailureClass.CANCELLED, message=reason or "cancelled on request")
    for rollout_id, rollout in found.items():
        if not lifecycle.rollout_ended(RolloutStatus(rollout.status)):
            found[rollout_id] = _cancel(unit, rollout, failure)
    return [found[rollout_id] for rollout_id in rollout_ids]


def sweep(unit: Unit) -> int:
    """Ends attempts whose lease or time has run out."""
    due_at = unit.tables.attempts.next_due()
    swept = 0
    while due_at is not None and due_at <= unit.now:
        rows = unit.tables.attempts.overdue(unit.now, limit=_SWEEP)
        for row in rows:
            _end(unit, row, _rollout(unit, row.rollout_id), failure=_expired(unit, row), output=None)
        swept += len(rows)
        due_at = unit.tables.attempts.next_due()
    return swept


def conclude(unit: Unit, rollout: RolloutRow, attempt: AttemptRow) -> RolloutRow:
    """Does to a running rollout what the ending of its newest attempt means."""
    failure = None if attempt.failure is None else unpack(attempt.failure, Failure)
    status = _next_status(rollout, None if failure is None else failure.kind)
    if status is RolloutStatus.QUEUED:
        return _requeue(unit, rollout)
    output = attempt.output if failure is None else None
    return _complete(unit, rollout, status, output=output, failure=attempt.failure)


def _enqueued_before(unit: Unit, rollout_ids: Sequence[str], *, key: str | None) -> list[RolloutRow]:
    found = unit.tables.rollouts.many(rollout_ids)
    for rollout_id in rollout_ids:
        if rollout_id not in found:
            raise NotFound(
                f"idempotency key {key!r} enqueued rollout {rollout_id!r}, which was trimmed since;"
                " use a new key to enqueue it again"
            )
    return [as_enqueued(found[rollout_id]) for rollout_id in rollout_ids]


def _lease(
    unit: Unit, row: RolloutRow, *, worker: str, ttl_s: float, resources: str | None
) -> tuple[RolloutRow, AttemptRow]:
    lifecycle.check_rollout_move(RolloutStatus(row.status), RolloutStatus.RUNNING)
    sequence = row.attempts + 1
    timeout_s = config_of(row).timeout_s
    expires_at = unit.now + ttl_s
    deadline_at = None if timeout_s is None else unit.now + timeout_s
    rollout = msgspec.structs.replace(
        row, status=RolloutStatus.RUNNING.value, attempts=sequence, resources=resources
    )
    attempt = AttemptRow(
        number=0,
        id=f"{row.id}.{sequence}",
        rollout_id=row.id,
        sequence=sequence,
        worker=worker,
        token=sequence,  # strictly rising per rollout, and as durable as the count itself
        leased_at=unit.now,
        deadline_at=deadline_at,
        status=AttemptStatus.LEASED.value,
        expires_at=expires_at,
        due_at=lifecycle.due_at(expires_at=expires_at, deadline_at=deadline_at),
    )
    unit.tables.rollouts.save(rollout)
    unit.tables.attempts.add(attempt)
    return rollout, attempt


class _Choice:
    """Picks the live resource set or, by weight, a canary.

    The pick depends on the rollout's group (or id) alone, so that rollouts which are compared with each other run on
    the same set, and one seed gives one result.
    """

    def __init__(self, unit: Unit) -> None:
        live = unit.tables.resources.in_state(ResourceState.LIVE.value)
        self._live = live[-1].id if live else None
        self._canaries = unit.tables.resources.in_state(ResourceState.CANARY.value)

    def __call__(self, row: RolloutRow) -> str | None:
        if not self._canaries:
            return self._live
        drawn = hashlib.blake2b((row.group or row.id).encode(), digest_size=8).digest()
        share = int.from_bytes(drawn, "big") / 2**64
        for canary in self._canaries:
            share -= canary.weight
            if share < 0:
                return canary.id
        return self._live


def _end(
    unit: Unit, row: AttemptRow, rollout: RolloutRow, *, failure: Failure | None, output: bytes | None
) -> RolloutRow:
    packed = None if failure is None else pack(failure, what="failure")
    kind = None if failure is None else failure.kind
    ending = lifecycle.attempt_ending(kind)
    lifecycle.check_attempt_move(AttemptStatus(row.status), ending)  # both, before anything is written
    lifecycle.check_rollout_move(RolloutStatus(rollout.status), _next_status(rollout, kind))
    return conclude(unit, rollout, _close(unit, row, ending, output=output, failure=packed))


def _next_status(rollout: RolloutRow, kind: FailureClass | None) -> RolloutStatus:
    return lifecycle.rollout_ending(kind, config_of(rollout), attempts=rollout.attempts)


def _close(
    unit: Unit,
    row: AttemptRow,
    ending: AttemptStatus,
    *,
    output: bytes | None = None,
    failure: bytes | None = None,
) -> AttemptRow:
    lifecycle.check_attempt_move(AttemptStatus(row.status), ending)
    closed = msgspec.structs.replace(
        row, status=ending.value, due_at=None, finished_at=unit.now, output=output, failure=failure
    )
    unit.tables.attempts.save(closed)
    return closed


def _requeue(unit: Unit, rollout: RolloutRow) -> RolloutRow:
    lifecycle.check_rollout_move(RolloutStatus(rollout.status), RolloutStatus.QUEUED)
    queued = msgspec.structs.replace(rollout, status=RolloutStatus.QUEUED.value, resources=rollout.pinned)
    unit.tables.rollouts.save(queued)
    unit.changes.queue(rollout.run_id)
    return queued


def _complete(
    unit: Unit, rollout: RolloutRow, status: RolloutStatus, *, output: bytes | None, failure: bytes | None
) -> RolloutRow:
    done = msgspec.structs.replace(
        rollout,
        status=status.value,
        completion=unit.tables.rollouts.last_completion() + 1,
        finished_at=unit.now,
        output=output,
        failure=failure,
    )
    unit.tables.rollouts.save(done)
    unit.changes.completed = True
    return done


def _cancel(unit: Unit, rollout: RolloutRow, failure: Failure) -> RolloutRow:
    lifecycle.check_rollout_move(RolloutStatus(rollout.status), RolloutStatus.CANCELLED)
    packed = pack(failure, what="failure")
    row = unit.tables.attempts.newest(rollout.id)
    if row is not None and not lifecycle.attempt_ended(AttemptStatus(row.status)):
        _close(unit, row, AttemptStatus.CANCELLED, failure=packed)
    return _complete(unit, rollout, RolloutStatus.CANCELLED, output=None, failure=packed)


def _expired(unit: Unit, row: AttemptRow) -> Failure:
    kind = lifecycle.expiry(unit.now, expires_at=row.expires_at, deadline_at=row.deadline_at)
    if kind is FailureClass.TIMED_OUT and row.deadline_at is not None:
        seconds = row.deadline_at - row.leased_at
        return Failure(kind=kind, message=f"attempt {row.id!r} took longer than its timeout of {seconds:g} s")
    return Failure(
        kind=FailureClass.LOST,
        message=f"no heartbeat of worker {row.worker!r} for attempt {row.id!r} in its lease",
    )


def _attempt(unit: Unit, attempt_id: str) -> AttemptRow:
    row = unit.tables.attempts.get(attempt_id)
    if row is None:
        raise NotFound(f"there is no attempt {attempt_id!r} in this store")
    return row


def _rollout(unit: Unit, rollout_id: str) -> RolloutRow:
    row = unit.tables.rollouts.get(rollout_id)
    if row is None:
        raise NotFound(f"there is no rollout {rollout_id!r} in this store")
    return row


def _check_token(row: AttemptRow, token: int) -> None:
    if token != row.token:
        raise LeaseLost(
            f"attempt {row.id!r} has token {row.token}, got {token!r}; drop this work and lease again"
        )


def _ended(row: AttemptRow) -> LeaseLost:
    return LeaseLost(
        f"attempt {row.id!r} of worker {row.worker!r} is {row.status} already; drop it and lease again"
    )


def _repeated(ids: Sequence[str]) -> list[str]:
    return [name for name, times in Counter(ids).items() if times > 1] if len(set(ids)) < len(ids) else []
