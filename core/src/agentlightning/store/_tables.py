"""Tables: the narrow, synchronous interface between the store's semantics and a medium that keeps rows.

A medium only keeps, finds and orders rows. Everything that means something (leases, retries, fencing, versions) is
written once, in the `_*_operations` modules, which run against these protocols inside a transaction. Operations check
everything before they write anything, so that a medium without rollback is whole after an error, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from agentlightning.store._queries import RolloutQuery
from agentlightning.store._records import RewardKey, RewardSummary
from agentlightning.store._rows import (
    AttemptRow,
    FoundSpan,
    ResourceRow,
    RewardRow,
    RolloutRow,
    RunRow,
    SpanRange,
    SpanRow,
)
from agentlightning.types import MetricPoint


class RolloutTable(Protocol):
    """Rollouts."""

    def add(self, rows: Sequence[RolloutRow]) -> None:
        """Adds rows in order, numbering them."""
        ...

    def get(self, rollout_id: str) -> RolloutRow | None:
        """One row."""
        ...

    def many(self, rollout_ids: Sequence[str]) -> dict[str, RolloutRow]:
        """Those of the rows that exist, by id."""
        ...

    def queued(self, *, limit: int, run_id: str | None) -> list[RolloutRow]:
        """The next to lease: by priority, then by number. The cost does not depend on what is not queued."""
        ...

    def save(self, row: RolloutRow) -> None:
        """Writes what may change: from `status` on."""
        ...

    def find(self, query: RolloutQuery, *, limit: int, cursor: int | None) -> list[RolloutRow]:
        """Rows in order of creation, beyond the number `cursor`."""
        ...

    def last_completion(self) -> int:
        """The highest completion there is, 0 without any."""
        ...

    def completed(self, *, after: int, run_id: str | None, limit: int) -> list[RolloutRow]:
        """Terminal rows in order of completion."""
        ...

    def counts(self) -> dict[str, int]:
        """How many rows by status; statuses without any may be missing."""
        ...

    def queue_length(self) -> int:
        """How many rows are queued. The cost does not depend on what is not queued."""
        ...

    def oldest_queued(self) -> float | None:
        """The earliest `created_at` of what is queued."""
        ...

    def expendable(self, *, finished_before: float, keep_runs: Sequence[str], limit: int) -> list[RolloutRow]:
        """Terminal rows that finished before and are of none of the runs, in order of completion.

        The row with the highest completion is left out: it keeps the count.
        """
        ...

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        ...


class KeyTable(Protocol):
    """Idempotency keys, and what was answered under each."""

    def recall(self, key: str) -> tuple[bytes, tuple[str, ...]] | None:
        """The payload's digest and the ids answered under a key."""
        ...

    def remember(self, key: str, *, digest: bytes, ids: Sequence[str], now: float) -> None:
        """Keeps what `recall` gives from now on."""
        ...

    def forget(self, before: float) -> None:
        """Deletes what was remembered before a time."""
        ...


class BlobTable(Protocol):
    """Large payloads, each once, by the digest of its content; kept as long as somebody uses it."""

    def add(self, blobs: Mapping[bytes, bytes], *, attempt: int) -> None:
        """Keeps payloads by digest, used by an attempt; those that are there already are only used."""
        ...

    def many(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Payloads by digest."""
        ...

    def release(self, attempts: Sequence[int]) -> None:
        """These attempts use none any more: deletes what nobody uses."""
        ...


class AttemptTable(Protocol):
    """Attempts."""

    def add(self, row: AttemptRow) -> None:
        """Adds a row, numbering it."""
        ...

    def get(self, attempt_id: str) -> AttemptRow | None:
        """One row."""
        ...

    def of(self, rollout_id: str) -> list[AttemptRow]:
        """All attempts of a rollout, by sequence."""
        ...

    def newest(self, rollout_id: str) -> AttemptRow | None:
        """The newest attempt of a rollout."""
        ...

    def save(self, row: AttemptRow) -> None:
        """Writes what may change, from `status` on, without the counts of spans."""
        ...

    def count(self, number: int, *, spans: int, late: int, size_bytes: int) -> None:
        """Writes the counts of spans and the sum of their sizes."""
        ...

    def totals(self) -> tuple[int, int, int]:
        """How many rows, spans and bytes of spans."""
        ...

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        ...

    def next_due(self) -> float | None:
        """The earliest `due_at`."""
        ...

    def overdue(self, now: float, *, limit: int) -> list[AttemptRow]:
        """Rows whose `due_at` has come, earliest first."""
        ...


class SpanTable(Protocol):
    """Spans and rewards. Spans are found by ranges of their numbers, which belong to attempts."""

    def known(self, attempt: int, span_ids: Sequence[str]) -> set[str]:
        """Those of the ids that the attempt has."""
        ...

    def add(self, rows: Sequence[SpanRow], *, rewards: Sequence[RewardRow]) -> None:
        """Adds rows."""
        ...

    def numbers(self, *, rollout_ids: Sequence[str] | None, attempt_ids: Sequence[str] | None) -> list[int]:
        """Numbers of the attempts that are in both, ascending."""
        ...

    def find(self, span_range: SpanRange, *, limit: int) -> list[FoundSpan]:
        """Matching spans, by number."""
        ...

    def count(self, span_range: SpanRange) -> int:
        """How many."""
        ...

    def rewards(self, attempt: int) -> list[RewardRow]:
        """Rewards of an attempt, by number."""
        ...

    def summarise(self, query: RolloutQuery, *, by: RewardKey) -> list[RewardSummary]:
        """Rewards of the newest successful (else newest) attempts of the matching rollouts, by key and dimension."""
        ...

    def remove(self, attempts: Sequence[int]) -> None:
        """Deletes spans and rewards of attempts."""
        ...


class ResourceTable(Protocol):
    """Resource sets."""

    def add(self, row: ResourceRow) -> None:
        """Adds a row."""
        ...

    def get(self, set_id: str) -> ResourceRow | None:
        """One row."""
        ...

    def in_state(self, state: str) -> list[ResourceRow]:
        """Rows in a state, by version."""
        ...

    def newest(self, *, run_id: str | None, limit: int) -> list[ResourceRow]:
        """Rows by falling version."""
        ...

    def save(self, row: ResourceRow) -> None:
        """Writes state and weight."""
        ...

    def total(self) -> int:
        """How many rows."""
        ...


class RunTable(Protocol):
    """Runs, their metric points and events."""

    def add(self, row: RunRow) -> None:
        """Adds a row, numbering it."""
        ...

    def get(self, run_id: str) -> RunRow | None:
        """One row."""
        ...

    def newest(self, limit: int) -> list[RunRow]:
        """Rows by falling number."""
        ...

    def save(self, row: RunRow) -> None:
        """Writes body and stop."""
        ...

    def total(self) -> int:
        """How many rows."""
        ...

    def log(self, run_id: str, *, points: Sequence[MetricPoint], events: Sequence[bytes]) -> None:
        """Adds points (replacing those of the same name and step) and packed events."""
        ...

    def points(self, run_id: str, names: Sequence[str] | None) -> list[MetricPoint]:
        """Points by name, then by step."""
        ...

    def events(self, run_id: str) -> list[bytes]:
        """Packed events in order."""
        ...


class Tables(Protocol):
    """All tables of one medium."""

    @property
    def rollouts(self) -> RolloutTable:
        """Rollouts."""
        ...

    @property
    def keys(self) -> KeyTable:
        """Idempotency keys."""
        ...

    @property
    def blobs(self) -> BlobTable:
        """Large payloads."""
        ...

    @property
    def attempts(self) -> AttemptTable:
        """Attempts."""
        ...

    @property
    def spans(self) -> SpanTable:
        """Spans."""
        ...

    @property
    def resources(self) -> ResourceTable:
        """Resource sets."""
        ...

    @property
    def runs(self) -> RunTable:
        """Runs."""
        ...
