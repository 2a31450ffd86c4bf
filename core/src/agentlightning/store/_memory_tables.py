"""Spans, resource sets and runs in memory, and all memory tables together."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

from agentlightning.store._memory_rollouts import MemoryAttempts, MemoryRollouts
from agentlightning.store._rows import ResourceRow, RewardRow, RunRow, SpanRange, SpanRow
from agentlightning.types import MetricPoint


class MemorySpans:
    """Spans by attempt, in order."""

    def __init__(self, attempts: MemoryAttempts) -> None:
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

    def find(self, span_range: SpanRange, *, limit: int) -> list[tuple[int, int, bytes]]:
        """Number, late flag and body, by number."""
        found: list[tuple[int, int, bytes]] = []
        for row in self._matching(span_range):
            if len(found) == limit:
                break
            found.append((row.number, int(row.late), row.body))
        return found

    def count(self, span_range: SpanRange) -> int:
        """How many."""
        return sum(1 for _ in self._matching(span_range))

    def rewards(self, attempt: int) -> list[RewardRow]:
        """Rewards of an attempt, by number."""
        return list(self._rewards.get(attempt, ()))

    def _matching(self, span_range: SpanRange) -> Iterator[SpanRow]:
        for attempt in self._attempts.between(span_range.low, span_range.high):
            rows = self._rows.get(attempt, [])
            start = bisect_right(rows, span_range.low, key=lambda row: row.number)
            stop = bisect_left(rows, span_range.high, key=lambda row: row.number)
            yield from (row for row in rows[start:stop] if _matches(row, span_range))


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
        self.spans = MemorySpans(self.attempts)
        self.resources = MemoryResources()
        self.runs = MemoryRuns()


def _matches(row: SpanRow, span_range: SpanRange) -> bool:
    return (
        (span_range.include_late or not row.late)
        and (span_range.operations is None or row.operation in span_range.operations)
        and (span_range.agent is None or row.agent == span_range.agent)
    )
