"""Rollouts and attempts in memory."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from agentlightning.errors import Conflict
from agentlightning.store._queries import RolloutQuery
from agentlightning.store._rows import SEQUENCE_BITS, AttemptRow, RolloutRow
from agentlightning.types import RolloutStatus

_Place = tuple[
    int, int, int
]  # falling priority, number, attempts: valid while the row is queued with as many


class MemoryRollouts:
    """Rollouts by id, with a heap per run for the queue; entries of a heap that no longer hold are dropped late."""

    def __init__(self) -> None:
        self._rows: dict[str, RolloutRow] = {}
        self._ids: list[str] = []
        self._completed: dict[str, list[int]] = defaultdict(list)
        self._completed_ids: dict[int, str] = {}
        self._queues: dict[str, list[_Place]] = defaultdict(list)
        self._completions = 0
        self._counts: Counter[str] = Counter()

    def add(self, rows: Sequence[RolloutRow]) -> None:
        """Adds rows in order, numbering them. Raises `Conflict` if an id that was drawn is taken."""
        taken = [row.id for row in rows if row.id in self._rows]
        if taken:
            raise Conflict(f"rollout id {taken[0]!r} was drawn twice; nothing was enqueued")
        for row in rows:
            self._ids.append(row.id)
            self._counts[row.status] += 1
            numbered = msgspec.structs.replace(row, number=len(self._ids))
            self._rows[row.id] = numbered
            self._placed(numbered)

    def get(self, rollout_id: str) -> RolloutRow | None:
        """One row."""
        return self._rows.get(rollout_id)

    def many(self, rollout_ids: Sequence[str]) -> dict[str, RolloutRow]:
        """Those of the rows that exist, by id."""
        return {name: self._rows[name] for name in rollout_ids if name in self._rows}

    def queued(self, *, limit: int, run_id: str | None) -> list[RolloutRow]:
        """The next to lease."""
        heap = self._queues["" if run_id is None else f"={run_id}"]
        taken: list[_Place] = []
        rows: list[RolloutRow] = []
        while heap and len(rows) < limit:
            place = heapq.heappop(heap)
            row = self._row(place[1])
            if row is not None and row.status == RolloutStatus.QUEUED and row.attempts == place[2]:
                taken.append(place)
                rows.append(row)
        for place in taken:
            heapq.heappush(heap, place)
        return rows

    def save(self, row: RolloutRow) -> None:
        """Writes a row."""
        self._counts[self._rows[row.id].status] -= 1
        self._counts[row.status] += 1
        self._rows[row.id] = row
        self._placed(row)

    def find(self, query: RolloutQuery, *, limit: int, cursor: int | None) -> list[RolloutRow]:
        """Rows in order of creation, beyond the number `cursor`."""
        numbers: Sequence[int]
        if query.ids is not None:
            numbers = sorted(row.number for row in self.many(query.ids).values())
        else:
            numbers = range(1, len(self._ids) + 1)
        if query.newest_first:
            numbers = numbers[: len(numbers) if cursor is None else bisect_left(numbers, cursor)][::-1]
        else:
            numbers = numbers[bisect_right(numbers, cursor or 0) :]
        found: list[RolloutRow] = []
        for number in numbers:
            row = self._row(number)
            if row is not None and _matches(row, query):
                found.append(row)
                if len(found) == limit:
                    break
        return found

    def last_completion(self) -> int:
        """The highest completion there is, 0 without any."""
        return self._completions

    def completed(self, *, after: int, run_id: str | None, limit: int) -> list[RolloutRow]:
        """Terminal rows in order of completion."""
        places = self._completed["" if run_id is None else f"={run_id}"]
        start = bisect_right(places, after)
        return [self._rows[self._completed_ids[place]] for place in places[start : start + limit]]

    def counts(self) -> dict[str, int]:
        """How many rows by status."""
        return dict(self._counts)

    def queue_length(self) -> int:
        """How many rows are queued."""
        return self._counts[RolloutStatus.QUEUED.value]

    def oldest_queued(self) -> float | None:
        """The earliest `created_at` of what is queued."""
        queued = (row.created_at for row in self._rows.values() if row.status == RolloutStatus.QUEUED)
        return min(queued, default=None)

    def expendable(self, *, finished_before: float, keep_runs: Sequence[str], limit: int) -> list[RolloutRow]:
        """Terminal rows that finished before and are of none of the runs, in order of completion."""
        found: list[RolloutRow] = []
        for place in self._completed[""]:
            row = self._rows[self._completed_ids[place]]
            kept = row.run_id in keep_runs or place == self._completions
            if not kept and (row.finished_at or 0.0) < finished_before:
                found.append(row)
                if len(found) == limit:
                    break
        return found

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        for number in numbers:
            row = self._rows.pop(self._ids[number - 1])
            self._ids[number - 1] = ""
            self._counts[row.status] -= 1
            if row.completion is not None:
                del self._completed_ids[row.completion]
                for name in ("", f"={row.run_id}"):
                    places = self._completed[name]
                    del places[bisect_left(places, row.completion)]

    def matching(self, query: RolloutQuery) -> Iterator[RolloutRow]:
        """Rows in order of creation."""
        return (row for row in self._rows.values() if _matches(row, query))

    def _row(self, number: int) -> RolloutRow | None:
        return self._rows.get(self._ids[number - 1])

    def _placed(self, row: RolloutRow) -> None:
        """Takes a row into the queue, or into the order of completion."""
        if row.status == RolloutStatus.QUEUED:
            self._queue(row)
        elif row.completion is not None and row.completion not in self._completed_ids:
            self._completions = max(self._completions, row.completion)
            self._completed_ids[row.completion] = row.id
            self._completed[""].append(row.completion)
            self._completed[f"={row.run_id}"].append(row.completion)

    def _queue(self, row: RolloutRow) -> None:
        place = (-row.priority, row.number, row.attempts)
        heapq.heappush(self._queues[""], place)
        if row.run_id is not None:
            heapq.heappush(self._queues[f"={row.run_id}"], place)


class MemoryAttempts:
    """Attempts by id, with a heap of due times; entries that no longer hold are dropped late."""

    def __init__(self) -> None:
        self._rows: dict[str, AttemptRow] = {}
        self._ids: list[str] = []
        self._of: dict[str, list[str]] = defaultdict(list)
        self._due: list[tuple[float, int]] = []

    def add(self, row: AttemptRow) -> None:
        """Adds a row, numbering it."""
        self._ids.append(row.id)
        self._of[row.rollout_id].append(row.id)
        self._put(msgspec.structs.replace(row, number=len(self._ids)))

    def get(self, attempt_id: str) -> AttemptRow | None:
        """One row."""
        return self._rows.get(attempt_id)

    def of(self, rollout_id: str) -> list[AttemptRow]:
        """All attempts of a rollout, by sequence."""
        return [self._rows[attempt_id] for attempt_id in self._of.get(rollout_id, ())]

    def newest(self, rollout_id: str) -> AttemptRow | None:
        """The newest attempt of a rollout."""
        rows = self.of(rollout_id)
        return rows[-1] if rows else None

    def save(self, row: AttemptRow) -> None:
        """Writes a row."""
        self._put(row)

    def count(self, number: int, *, spans: int, late: int, size_bytes: int) -> None:
        """Writes the counts of spans and the sum of their sizes."""
        attempt_id = self._ids[number - 1]
        self._rows[attempt_id] = msgspec.structs.replace(
            self._rows[attempt_id], spans=spans, late=late, size_bytes=size_bytes
        )

    def totals(self) -> tuple[int, int, int]:
        """How many rows, spans and bytes of spans."""
        rows = self._rows.values()
        return len(rows), sum(row.spans for row in rows), sum(row.size_bytes for row in rows)

    def remove(self, numbers: Sequence[int]) -> None:
        """Deletes rows."""
        for number in numbers:
            row = self._rows.pop(self._ids[number - 1])
            self._ids[number - 1] = ""
            self._of.pop(row.rollout_id, None)

    def next_due(self) -> float | None:
        """The earliest `due_at`."""
        while self._due:
            due_at, number = self._due[0]
            row = self._rows.get(self._ids[number - 1])
            if row is not None and row.due_at == due_at:
                return due_at
            heapq.heappop(self._due)
        return None

    def overdue(self, now: float, *, limit: int) -> list[AttemptRow]:
        """Rows whose `due_at` has come, earliest first."""
        rows: dict[int, AttemptRow] = {}
        popped: list[tuple[float, int]] = []
        while self._due and self._due[0][0] <= now and len(rows) < limit:
            due_at, number = heapq.heappop(self._due)
            row = self._rows.get(self._ids[number - 1])
            if row is not None and row.due_at == due_at:
                rows[number] = row
                popped.append((due_at, number))
        for entry in popped:
            heapq.heappush(self._due, entry)
        return list(rows.values())

    def numbers(self, *, rollout_ids: Sequence[str] | None, attempt_ids: Sequence[str] | None) -> list[int]:
        """Numbers of the attempts that are in both, ascending."""
        of_rollouts = (
            None if rollout_ids is None else {row.number for name in rollout_ids for row in self.of(name)}
        )
        named = (
            None
            if attempt_ids is None
            else {self._rows[name].number for name in attempt_ids if name in self._rows}
        )
        if of_rollouts is None or named is None:
            return sorted(of_rollouts or named or ())
        return sorted(of_rollouts & named)

    def between(self, low: int, high: int) -> range:
        """Numbers of the attempts whose spans may lie strictly between two span numbers."""
        return range(max(1, low >> SEQUENCE_BITS), min(len(self._ids), (high - 1) >> SEQUENCE_BITS) + 1)

    def _put(self, row: AttemptRow) -> None:
        before = self._rows.get(row.id)
        self._rows[row.id] = row
        if row.due_at is not None and (before is None or before.due_at != row.due_at):
            heapq.heappush(self._due, (row.due_at, row.number))


def _matches(row: RolloutRow, query: RolloutQuery) -> bool:
    return (
        (query.run_id is None or row.run_id == query.run_id)
        and (query.group is None or row.group == query.group)
        and (query.mode is None or row.mode == query.mode)
        and (query.statuses is None or row.status in query.statuses)
        and (query.ids is None or row.id in query.ids)
    )
