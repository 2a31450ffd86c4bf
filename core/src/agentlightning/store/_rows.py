"""Rows: what the tables of every backend keep, and how they become the nouns that callers see."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from agentlightning.store._codec import from_row, pack, unpack, unpack_json
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Failure,
    Json,
    Lease,
    Mode,
    ResourceRecord,
    ResourceSet,
    ResourceState,
    Rollout,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
    Span,
)

SEQUENCE_BITS: Final = 32
"""A span's number in the store is its attempt's number shifted by this, plus its sequence."""

_SPANS: Final = msgspec.msgpack.Decoder(Span)
_CONFIGS: Final = msgspec.msgpack.Decoder(RolloutConfig)


class RolloutRow(msgspec.Struct, frozen=True):
    """A rollout; fields are in the order of the table's columns, what never changes first.

    Attributes:
        number: Place in the order of creation, from 1; 0 before it is stored.
        pinned: The resource set the request pinned.
        body: Packed `RolloutBody`.
        config: Packed `RolloutConfig`.
        completion: Place in the order of completion; None until it is terminal.
        resources: The resource set that the newest attempt runs on.
        output: Packed output.
        failure: Packed `Failure`.
    """

    number: int
    id: str
    run_id: str | None
    group: str | None
    mode: str
    priority: int
    pinned: str | None
    created_at: float
    body: bytes
    config: bytes
    status: str
    attempts: int
    resources: str | None
    completion: int | None = None
    finished_at: float | None = None
    output: bytes | None = None
    failure: bytes | None = None

    @property
    def changing(self) -> tuple[object, ...]:
        """The columns that may change."""
        return (
            self.status,
            self.attempts,
            self.resources,
            self.completion,
            self.finished_at,
            self.output,
            self.failure,
        )


class RolloutBody(msgspec.Struct, frozen=True, array_like=True):
    """What nobody asks the tables about."""

    task: Json
    sample: int
    seed: int | None
    metadata: dict[str, str]


class AttemptRow(msgspec.Struct, frozen=True):
    """An attempt; fields are in the order of the table's columns.

    Attributes:
        number: Place in the order of creation, from 1; 0 before it is stored.
        due_at: When it ends by itself; None once it has ended.
        spans: How many spans it has, which is the newest one's sequence.
        late: How many of them are late.
        size_bytes: The sum of their sizes as stored, large payloads included each time they are used.
    """

    number: int
    id: str
    rollout_id: str
    sequence: int
    worker: str
    token: int
    leased_at: float
    deadline_at: float | None
    status: str
    expires_at: float
    due_at: float | None
    finished_at: float | None = None
    output: bytes | None = None
    failure: bytes | None = None
    spans: int = 0
    late: int = 0
    size_bytes: int = 0


class RewardRow(msgspec.Struct, frozen=True):
    """A reward, keyed by the number of the span that carries it."""

    number: int
    attempt: int
    span_id: str
    value: float
    dimension: str
    target: str | None
    source: str
    reason: str | None


class SpanRow(msgspec.Struct, frozen=True):
    """A span, keyed by its number; fields are in the order of the table's columns.

    Attributes:
        body: Packed `Span`, without the attributes that are in blobs.
        blobs: Packed digests by attribute; None for spans that are small enough.
    """

    number: int
    attempt: int
    span_id: str
    operation: str
    agent: str | None
    late: bool
    body: bytes
    name: str
    start_ns: int
    blobs: bytes | None = None


class FoundSpan(NamedTuple):
    """What reading needs of a `SpanRow`."""

    number: int
    late: int
    body: bytes
    blobs: bytes | None


class SpanRange(msgspec.Struct, frozen=True):
    """Which spans: `low < number < high`, and the filters of a `SpanQuery`."""

    low: int
    high: int
    operations: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    agent: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    include_late: bool = False


class ResourceRow(msgspec.Struct, frozen=True):
    """A resource set; `body` is the packed records by name."""

    version: int
    id: str
    parent: str | None
    run_id: str | None
    step: int | None
    created_at: float
    body: bytes
    state: str
    weight: float


class RunRow(msgspec.Struct, frozen=True):
    """A run; `body` is the packed `Run` without what is judged at read."""

    number: int
    id: str
    body: bytes
    stop: bool = False


def is_filtered(span_range: SpanRange) -> bool:
    """Whether more than the range and lateness restricts."""
    filters = (
        span_range.operations,
        span_range.names,
        span_range.agent,
        span_range.since_ns,
        span_range.until_ns,
    )
    return any(one is not None for one in filters)


def rollout_row(request: RolloutRequest) -> RolloutRow:
    """The row of a rollout about to be enqueued; the time, and an id where there is none, come with the transaction."""
    what = "rollout" if request.id is None else f"rollout {request.id!r}"
    body = RolloutBody(request.task, request.sample, request.seed, request.metadata)
    return RolloutRow(
        number=0,
        id=request.id or "",
        run_id=request.run_id,
        group=request.group,
        mode=request.mode.value,
        priority=request.priority,
        pinned=request.resources,
        created_at=0.0,
        body=pack(body, what=what),
        config=pack(request.config, what=what),
        status=RolloutStatus.QUEUED.value,
        attempts=0,
        resources=request.resources,
    )


@from_row
def rollout_of(row: RolloutRow) -> Rollout:
    """The rollout a row stands for."""
    body = unpack(row.body, RolloutBody)
    return Rollout(
        id=row.id,
        task=body.task,
        mode=Mode(row.mode),
        run_id=row.run_id,
        group=row.group,
        sample=body.sample,
        seed=body.seed,
        resources=row.resources,
        config=config_of(row),
        priority=row.priority,
        metadata=body.metadata,
        status=RolloutStatus(row.status),
        attempts=row.attempts,
        created_at=row.created_at,
        finished_at=row.finished_at,
        output=None if row.output is None else unpack_json(row.output),
        failure=None if row.failure is None else unpack(row.failure, Failure),
    )


@from_row
def config_of(row: RolloutRow) -> RolloutConfig:
    """How a rollout is executed."""
    return _CONFIGS.decode(row.config)


def as_enqueued(row: RolloutRow) -> RolloutRow:
    """The row as it was when it was new."""
    return msgspec.structs.replace(
        row,
        status=RolloutStatus.QUEUED.value,
        attempts=0,
        resources=row.pinned,
        completion=None,
        finished_at=None,
        output=None,
        failure=None,
    )


@from_row
def attempt_of(row: AttemptRow) -> Attempt:
    """The attempt a row stands for."""
    return Attempt(
        id=row.id,
        rollout_id=row.rollout_id,
        sequence=row.sequence,
        worker=row.worker,
        token=row.token,
        status=AttemptStatus(row.status),
        leased_at=row.leased_at,
        expires_at=row.expires_at,
        deadline_at=row.deadline_at,
        finished_at=row.finished_at,
        output=None if row.output is None else unpack_json(row.output),
        failure=None if row.failure is None else unpack(row.failure, Failure),
    )


def lease_of(rows: tuple[RolloutRow, AttemptRow]) -> Lease:
    """The lease that a rollout's and its newest attempt's row stand for."""
    return Lease(rollout=rollout_of(rows[0]), attempt=attempt_of(rows[1]))


@from_row
def span_of(number: int, late: int, body: bytes) -> Span:
    """The span with its place."""
    sequence = number & ((1 << SEQUENCE_BITS) - 1)
    return msgspec.structs.replace(_SPANS.decode(body), sequence=sequence, late=bool(late))


@from_row
def resource_set_of(row: ResourceRow) -> ResourceSet:
    """The resource set a row stands for."""
    return ResourceSet(
        id=row.id,
        version=row.version,
        resources=unpack(row.body, dict[str, ResourceRecord]),
        parent=row.parent,
        state=ResourceState(row.state),
        created_at=row.created_at,
        weight=row.weight,
        run_id=row.run_id,
        step=row.step,
    )
