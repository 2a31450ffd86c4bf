"""Spans, resource sets and runs in memory, and all memory tables together."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from agentlightning.store._memory_rollouts import MemoryAttempts, MemoryRollouts
from agentlightning.store._queries import RolloutQuery
from agentlightning.store._records import RewardKey, RewardSummary
from agentlightning.store._rows import (
    FoundSpan,
    ResourceRow,
    RewardRow,
    RolloutRow,
    RunRow,
    SpanRange,
    SpanRow,
)
from agentlightning.store._summaries import summaries
from agentlightning.types import AttemptStatus, MetricPoint


class MemorySpans:
    """Spans by attempt, in order."""

    def __init__(self, rollouts: MemoryRollouts, attempts: MemoryAttempts) -> None:
        self._rollouts = rollouts
        self._attempts = attempts
        self._rows: dict[int, list[SpanRow]] = defaultdict(list)
        self._ids: dict[int, set[str]] = defaultdict(set)
        self._rewards: dict[int, list[RewardRow]] = defaultdict(list)

    def known(self, attempt: int, span_ids: Sequence[str]) -> set[str]:
        """Those of the ids that the attempt has."""
        return self._ids[attempt].intersection(span_ids)

    def add(self, rows: Sequence[SpanRow], *, rewards: Sequence[RewardRow]) -> None:
        """Adds rows."""
        for row in rows:
            self._rows[row.attempt].append(row)
            self._ids[row.attempt].add(row.span_id)
        for reward in rewards:
            self._rewards[reward.attempt].append(reward)

    def numbers(self, *, rollout_ids: Sequence[str] | None, attempt_ids: Sequence[str] | None) -> list[int]:
        """Numbers of the attempts that are in both, ascending."""
        return self._attempts.numbers(rollout_ids=rollout_ids, attempt_ids=attempt_ids)

    def find(self, span_range: SpanRange, *, limit: int) -> list[FoundSpan]:
        """Matching spans, by number."""
        found: list[FoundSpan] = []
        for row in self._matching(span_range):
            if len(found) == limit:
                break
            found.append(FoundSpan(row.number, int(row.late), row.body, row.blobs))
        return found

    def count(self, span_range: SpanRange) -> int:
        """How many."""
        return sum(1 for _ in self._matching(span_range))

    def rewards(self, attempt: int) -> list[RewardRow]:
        """Rewards of an attempt, by number."""
        return list(self._rewards.get(attempt, ()))

    def summarise(self, query: RolloutQuery, *, by: RewardKey) -> list[RewardSummary]:
        """Rewards of the newest successful (else newest) attempts of the matching rollouts, by key and dimension."""
        found: list[tuple[str | None, str, float]] = []
        for rollout in self._rollouts.matching(query):
            rows = self._attempts.of(rollout.id)
            counting = [row for row in rows if row.status == AttemptStatus.SUCCEEDED] or rows
            rewards = self._rewards.get(counting[-1].number, ()) if counting else ()
            found += ((_key(rollout, by), reward.dimension, reward.value) for reward in rewards)
        return summaries(found)

    def remove(self, attempts: Sequence[int]) -> None:
        """Deletes spans and rewards of attempts."""
        for attempt in attempts:
            for kept in (self._rows, self._ids, self._rewards):
                kept.pop(attempt, None)

    def _matching(self, span_range: SpanRange) -> Iterator[SpanRow]:
        for attempt in self._attempts.between(span_range.low, span_range.high):
            rows = self._rows.get(attempt, [])
            start = bisect_right(rows, span_range.low, key=lambda row: row.number)
            stop = bisect_left(rows, span_range.high, key=lambda row: row.number)
            yield from (row for row in rows[start:stop] if _matches(row, span_range))


class MemoryKeys:
    """Idempotency keys, in the order in which they were remembered."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[bytes, tuple[str, ...]]] = {}
        self._times: dict[str, float] = {}

    def recall(self, key: str) -> tuple[bytes, tuple[str, ...]] | None:
        """The payload's digest and the ids answered under a key."""
        return self._answers.get(key)

    def remember(self, key: str, *, digest: bytes, ids: Sequence[str], now: float) -> None:
        """Keeps what `recall` gives."""
        self._answers[key] = (digest, tuple(ids))
        self._times.pop(key, None)
        self._times[key] = now

    def forget(self, before: float) -> None:
        """Deletes what was remembered before a time."""
        while self._times:  # from the oldest on: looking costs nothing while there is none to forget
            key = next(iter(self._times))
            if self._times[key] >= before:
                break
            del self._answers[key], self._times[key]


class MemoryBlobs:
    """Large payloads by digest, and who uses each."""

    def __init__(self) -> None:
        self._bodies: dict[bytes, bytes] = {}
        self._users: dict[bytes, set[int]] = defaultdict(set)
        self._used: dict[int, set[bytes]] = defaultdict(set)

    def add(self, blobs: Mapping[bytes, bytes], *, attempt: int) -> None:
        """Keeps payloads by digest, used by an attempt."""
        for digest, body in blobs.items():
            self._bodies.setdefault(digest, body)
            self._users[digest].add(attempt)
            self._used[attempt].add(digest)

    def many(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Payloads by digest."""
        return {digest: self._bodies[digest] for digest in digests if digest in self._bodies}

    def release(self, attempts: Sequence[int]) -> None:
        """These attempts use none any more: deletes what nobody uses."""
        for attempt in attempts:
            for digest in self._used.pop(attempt, ()):
                self._users[digest].discard(attempt)
                if not self._users[digest]:
                    del self._users[digest], self._bodies[digest]


class MemoryResources:
    """Resource sets by id, in order of version."""

    def __init__(self) -> None:
        self._rows: dict[str, ResourceRow] = {}

    def add(self, row: ResourceRow) -> None:
        """Adds a row."""
        self._rows[row.id] = row

    def get(self, set_id: str) -> ResourceRow | None:
        """One row."""
        return self._rows.get(set_id)

    def in_state(self, state: str) -> list[ResourceRow]:
        """Rows in a state, by version."""
        return [row for row in self._rows.values() if row.state == state]

    def newest(self, *, run_id: str | None, limit: int) -> list[ResourceRow]:
        """Rows by falling version."""
        rows = [row for row in reversed(self._rows.values()) if run_id is None or row.run_id == run_id]
        return rows[:limit]

    def save(self, row: ResourceRow) -> None:
        """Writes state and weight."""
        self._rows[row.id] = row

    def total(self) -> int:
        """How many rows."""
        return len(self._rows)


class MemoryRuns:
    """Runs by id, in order of creation."""

    def __init__(self) -> None:
        self._rows: dict[str, RunRow] = {}
        self._points: dict[str, dict[tuple[str, int], MetricPoint]] = defaultdict(dict)
        self._events: dict[str, list[bytes]] = defaultdict(list)

    def add(self, row: RunRow) -> None:
        """Adds a row."""
        self._rows[row.id] = row

    def get(self, run_id: str) -> RunRow | None:
        """One row."""
        return self._rows.get(run_id)

    def newest(self, limit: int) -> list[RunRow]:
        """The newest first."""
        return list(reversed(self._rows.values()))[:limit]

    def save(self, row: RunRow) -> None:
        """Writes body and stop."""
        self._rows[row.id] = row

    def total(self) -> int:
        """How many rows."""
        return len(self._rows)

    def log(self, run_id: str, *, points: Sequence[MetricPoint], events: Sequence[bytes]) -> None:
        """Adds points and packed events."""
        self._points[run_id].update({(point.name, point.step): point for point in points})
        self._events[run_id].extend(events)

    def points(self, run_id: str, names: Sequence[str] | None) -> list[MetricPoint]:
        """Points by name, then by step."""
        points = sorted(self._points.get(run_id, {}).items())
        return [point for (name, _), point in points if names is None or name in names]

    def events(self, run_id: str) -> list[bytes]:
        """Packed events in order."""
        return list(self._events.get(run_id, ()))


class MemoryTables:
    """All tables, in memory."""

    def __init__(self) -> None:
        self.rollouts = MemoryRollouts()
        self.attempts = MemoryAttempts()
        self.spans = MemorySpans(self.rollouts, self.attempts)
        self.keys = MemoryKeys()
        self.blobs = MemoryBlobs()
        self.resources = MemoryResources()
        self.runs = MemoryRuns()


def _matches(row: SpanRow, span_range: SpanRange) -> bool:
    return (
        (span_range.include_late or not row.late)
        and (span_range.operations is None or row.operation in span_range.operations)
        and (span_range.names is None or row.name in span_range.names)
        and (span_range.agent is None or row.agent == span_range.agent)
        and (span_range.since_ns is None or row.start_ns >= span_range.since_ns)
        and (span_range.until_ns is None or row.start_ns < span_range.until_ns)
    )


def _key(rollout: RolloutRow, by: RewardKey) -> str | None:
    keys = {
        RewardKey.DIMENSION: None,
        RewardKey.GROUP: rollout.group,
        RewardKey.RUN: rollout.run_id,
        RewardKey.RESOURCES: rollout.resources,
        RewardKey.MODE: rollout.mode,
    }
    return keys[by]
