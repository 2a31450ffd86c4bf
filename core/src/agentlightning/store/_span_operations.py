"""What the store does with spans and rewards, inside a transaction that began with a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import msgspec

from agentlightning.errors import NotFound
from agentlightning.store import lifecycle
from agentlightning.store._protocols import AppendResult, SpanQuery
from agentlightning.store._rows import SEQUENCE_BITS, AttemptRow, RewardRow, SpanRange, SpanRow
from agentlightning.store._unit import Unit
from agentlightning.types import AttemptStatus, Reward

_END = 2**63 - 1


class PackedSpan(msgspec.Struct, frozen=True):
    """A span ready to be stored."""

    attempt_id: str
    rollout_id: str
    span_id: str
    operation: str
    agent: str | None
    body: bytes
    reward: Reward | None


class RawPage(msgspec.Struct, frozen=True):
    """A page of spans, not decoded yet."""

    spans: list[tuple[int, int, bytes]]
    more: bool


def append(unit: Unit, batches: Mapping[str, Sequence[PackedSpan]], *, token: int | None) -> AppendResult:
    """Adds spans, by attempt."""
    attempts = {attempt_id: _attempt(unit, attempt_id, spans) for attempt_id, spans in batches.items()}
    total = AppendResult(stored=0)
    for attempt_id, spans in batches.items():
        part = _append(unit, attempts[attempt_id], spans, token=token)
        total = AppendResult(
            stored=total.stored + part.stored,
            duplicates=total.duplicates + part.duplicates,
            late=total.late + part.late,
        )
    return total


def page(unit: Unit, query: SpanQuery, *, limit: int, cursor: int) -> RawPage:
    """Spans with a number beyond `cursor`."""
    found: list[tuple[int, int, bytes]] = []
    for span_range in _ranges(unit, query, cursor=cursor):
        found += unit.tables.spans.find(span_range, limit=limit + 1 - len(found))
        if len(found) > limit:
            return RawPage(found[:limit], more=True)
    return RawPage(found, more=False)


def count_spans(unit: Unit, query: SpanQuery) -> int:
    """How many spans match."""
    return sum(unit.tables.spans.count(span_range) for span_range in _ranges(unit, query, cursor=0))


def rewards(unit: Unit, rollout_ids: Sequence[str]) -> list[Reward]:
    """Rewards of the attempts that count."""
    found: list[Reward] = []
    for rollout_id in rollout_ids:
        row = _counting(unit.tables.attempts.of(rollout_id))
        if row is not None:
            found += (_reward(reward, row) for reward in unit.tables.spans.rewards(row.number))
    return found


def _append(unit: Unit, row: AttemptRow, spans: Sequence[PackedSpan], *, token: int | None) -> AppendResult:
    fresh: dict[str, PackedSpan] = {}
    for span in spans:
        fresh.setdefault(span.span_id, span)
    if row.spans:
        for span_id in unit.tables.spans.known(row.number, list(fresh)):
            del fresh[span_id]
    duplicates = len(spans) - len(fresh)
    if not fresh:
        return AppendResult(stored=0, duplicates=duplicates)
    late = _is_late(row, token)
    rows: list[SpanRow] = []
    reward_rows: list[RewardRow] = []
    numbers = count((row.number << SEQUENCE_BITS) + row.spans + 1)
    for number, span in zip(numbers, fresh.values(), strict=False):
        rows.append(SpanRow(number, row.number, span.span_id, span.operation, span.agent, late, span.body))
        if span.reward is not None and not late:
            reward_rows.append(_reward_row(number, row.number, span.reward))
    unit.tables.spans.add(rows, rewards=reward_rows)
    added_late = len(rows) if late else 0
    unit.tables.attempts.count(row.number, spans=row.spans + len(rows), late=row.late + added_late)
    return AppendResult(stored=len(rows) - added_late, duplicates=duplicates, late=added_late)


def _attempt(unit: Unit, attempt_id: str, spans: Sequence[PackedSpan]) -> AttemptRow:
    row = unit.tables.attempts.get(attempt_id)
    if row is None:
        raise NotFound(
            f"there is no attempt {attempt_id!r} to append spans to; nothing of the batch was stored"
        )
    for span in spans:
        if span.rollout_id != row.rollout_id:
            raise NotFound(
                f"rollout {span.rollout_id!r} has no attempt {attempt_id!r}, which is of {row.rollout_id!r};"
                f" correct span {span.span_id!r}; nothing of the batch was stored"
            )
    return row


def _is_late(row: AttemptRow, token: int | None) -> bool:
    if lifecycle.attempt_ended(AttemptStatus(row.status)):
        return True
    return token is not None and token < row.token  # an open attempt is its rollout's newest


def _ranges(unit: Unit, query: SpanQuery, *, cursor: int) -> Iterator[SpanRange]:
    rest = (query.operations, query.agent, query.include_late)
    if query.rollout_ids is None and query.attempt_ids is None:
        yield SpanRange(cursor, _END, *rest)
        return
    numbers = unit.tables.spans.numbers(rollout_ids=query.rollout_ids, attempt_ids=query.attempt_ids)
    for number in numbers:
        low, high = number << SEQUENCE_BITS, (number + 1) << SEQUENCE_BITS
        if cursor < high:
            yield SpanRange(max(low, cursor), high, *rest)


def _counting(rows: Sequence[AttemptRow]) -> AttemptRow | None:
    succeeded = [row for row in rows if row.status == AttemptStatus.SUCCEEDED.value]
    counting = succeeded or rows
    return counting[-1] if counting else None


def _reward_row(number: int, attempt: int, reward: Reward) -> RewardRow:
    return RewardRow(
        number=number,
        attempt=attempt,
        span_id=reward.span_id,
        value=reward.value,
        dimension=reward.dimension,
        target=reward.target,
        source=reward.source.value,
        reason=reward.reason,
    )


def _reward(row: RewardRow, attempt: AttemptRow) -> Reward:
    return msgspec.convert(
        {
            "rollout_id": attempt.rollout_id,
            "attempt_id": attempt.id,
            "span_id": row.span_id,
            "value": row.value,
            "dimension": row.dimension,
            "target": row.target,
            "source": row.source,
            "reason": row.reason,
        },
        type=Reward,
    )
