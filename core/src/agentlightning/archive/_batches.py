"""Records of an archive in batches for a store: each rollout together with its attempts and spans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from agentlightning.archive._kinds import Kind
from agentlightning.archive._medium import Reader, Sized
from agentlightning.errors import ConfigError
from agentlightning.store import AttemptRecord, Record, RolloutRecord, SpanRecord

_BATCH: Final = 2_000
_BATCH_BYTES: Final = 4 * 2**20
_LARGEST: Final = 20_000
_LARGEST_BYTES: Final = 16 * 2**20
_PLAIN: Final = (Kind.RUNS, Kind.METRICS, Kind.EVENTS, Kind.RESOURCE_SETS)


class _Placed(NamedTuple):
    """A record, and whether something new begins with it, before which a batch may end."""

    found: Sized
    begins: bool


def batches(reader: Reader) -> Iterator[list[Record]]:
    """All records. What a record belongs to comes before it, in its batch or an earlier one.

    A rollout is in one batch with all that is its own, unless that is very large: whoever sees it in the store sees
    all of it.
    """
    batch: list[Record] = []
    size_bytes = 0
    for found, begins in _placed(reader):
        full = len(batch) >= _BATCH or size_bytes >= _BATCH_BYTES
        very_full = len(batch) >= _LARGEST or size_bytes >= _LARGEST_BYTES
        if batch and (very_full or (full and begins)):
            yield batch
            batch, size_bytes = [], 0
        batch.append(found.record)
        size_bytes += found.size_bytes
    if batch:
        yield batch


def _placed(reader: Reader) -> Iterator[_Placed]:
    for kind in _PLAIN:
        for found in reader.read(kind):
            yield _Placed(found, begins=True)
    attempts, spans = _Ahead(reader.read(Kind.ATTEMPTS)), _Ahead(reader.read(Kind.SPANS))
    for found in reader.read(Kind.ROLLOUTS):
        yield _Placed(found, begins=True)
        while attempts.owner is not None and attempts.owner == _id(found.record):
            attempt = attempts.take()
            yield _Placed(attempt, begins=False)
            while spans.owner is not None and spans.owner == _id(attempt.record):
                yield _Placed(spans.take(), begins=False)
    for left, what in ((attempts, "attempt of rollout"), (spans, "span of attempt")):
        if left.owner is not None:
            raise ConfigError(
                f"the archive has an {what} {left.owner!r} that has no place there, or not this one;"
                " export it again"
            )


class _Ahead:
    """Records of which the next one can be looked at."""

    def __init__(self, records: Iterator[Sized]) -> None:
        self._records = records
        self._next = next(records, None)

    @property
    def owner(self) -> str | None:
        """What the next record belongs to; None after the last one."""
        match self._next:
            case Sized(record=AttemptRecord(attempt=attempt)):
                return attempt.rollout_id
            case Sized(record=SpanRecord(span=span)):
                return span.attempt_id
            case _:
                return None

    def take(self) -> Sized:
        """The next record."""
        taken = self._next
        if taken is None:
            raise LookupError("there is no record left to take")
        self._next = next(self._records, None)
        return taken


def _id(record: Record) -> str | None:
    match record:
        case RolloutRecord(rollout=rollout):
            return rollout.id
        case AttemptRecord(attempt=attempt):
            return attempt.id
        case _:
            return None
