"""What the store does with spans and rewards, inside a transaction that began with a sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count, groupby
from operator import itemgetter
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.errors import NotFound
from agentlightning.store import lifecycle
from agentlightning.store._codec import unpack
from agentlightning.store._limits import Limits
from agentlightning.store._packing import PackedSpan, packed_span, unpacked_span
from agentlightning.store._queries import AppendResult, SpanQuery
from agentlightning.store._rows import SEQUENCE_BITS, AttemptRow, FoundSpan, RewardRow, SpanRange, SpanRow
from agentlightning.store._unit import Unit
from agentlightning.types import AttemptStatus, Reward, Span, SpanSource, SpanStatus

_END = 2**63 - 1
_FIRST_PIECE: Final = 8  # spans read at once for a page, of the largest size that there is
_GROWTH: Final = 4
_MOST_PIECE: Final = 128
MARKER_ID: Final = "agl-truncated"
"""Span id of the marker; no tracer makes such an id."""


class RawPage(msgspec.Struct, frozen=True):
    """A page of spans, not decoded yet, with the blobs that they refer to."""

    spans: list[FoundSpan]
    more: bool
    blobs: Mapping[bytes, bytes]


class Appended(msgspec.Struct, frozen=True):
    """What became of spans; `refusal` says which attempt takes no more, if one does not."""

    result: AppendResult
    refusal: str | None


def append(
    unit: Unit, batches: Mapping[str, Sequence[PackedSpan]], *, token: int | None, limits: Limits
) -> Appended:
    """Adds spans, by attempt. An attempt that has all it may have gets a marker instead, once."""
    attempts = {attempt_id: _attempt(unit, attempt_id, spans) for attempt_id, spans in batches.items()}
    stored = duplicates = late = 0
    refusal: str | None = None
    for attempt_id, spans in batches.items():
        row = attempts[attempt_id]
        fresh = _fresh(unit, row, spans)
        full = _full(row, fresh, limits)
        if full is not None:
            refusal = full
            _mark(unit, row, full)
            continue
        duplicates += len(spans) - len(fresh)
        if _append(unit, row, fresh, late=_is_late(row, token)):
            late += len(fresh)
        else:
            stored += len(fresh)
    return Appended(AppendResult(stored=stored, duplicates=duplicates, late=late), refusal)


def add_as_were(unit: Unit, attempt_id: str, spans: Sequence[tuple[bool, PackedSpan]]) -> None:
    """Adds spans of another store that the attempt does not have, each late as it was."""
    for late, some in groupby(spans, key=itemgetter(0)):
        _append(unit, _attempt(unit, attempt_id, ()), [span for _, span in some], late=late)


def stored(unit: Unit, row: AttemptRow, *, first: int, last: int) -> dict[str, Span]:
    """The spans of an attempt between two sequences, both included, by span id."""
    start = row.number << SEQUENCE_BITS
    found = unit.tables.spans.find(
        SpanRange(start + first - 1, start + last + 1, include_late=True), limit=last - first + 1
    )
    blobs = _blobs(unit, found)
    return {span.span_id: span for span in (unpacked_span(one, blobs) for one in found)}


def page(unit: Unit, query: SpanQuery, *, limit: int, most_bytes: int, cursor: int) -> RawPage:
    """Spans with a number beyond `cursor`: so many, or the first one and what else is in so many bytes.

    They are read piece by piece, each as long as those before suggest, so that what is too much is never in memory.
    """
    shown: list[FoundSpan] = []
    blobs: dict[bytes, bytes] = {}
    size_bytes, piece = 0, _FIRST_PIECE
    for span_range in _ranges(unit, query, cursor=cursor):
        rest = span_range
        while True:
            wanted = max(min(piece, limit + 1 - len(shown)), 1)
            found = unit.tables.spans.find(rest, limit=wanted)
            payloads = _blobs(unit, found)
            for span in found:
                size_bytes += _size(span, payloads)
                if len(shown) >= limit or (shown and size_bytes > most_bytes):
                    return RawPage(shown, more=True, blobs=blobs)
                shown.append(span)
                blobs |= {digest: payloads[digest] for digest in _references(span) if digest in payloads}
            if len(found) < wanted:
                break
            rest = msgspec.structs.replace(rest, low=found[-1].number)
            fitting = (most_bytes - size_bytes) * len(shown) // max(size_bytes, 1)
            piece = max(min(_GROWTH * piece, _MOST_PIECE, fitting), 1)
    return RawPage(shown, more=False, blobs=blobs)


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


def _blobs(unit: Unit, found: Sequence[FoundSpan]) -> dict[bytes, bytes]:
    """The payloads that spans refer to."""
    digests = [digest for span in found for digest in _references(span)]
    return unit.tables.blobs.many(digests) if digests else {}


def _references(span: FoundSpan) -> Collection[bytes]:
    return unpack(span.blobs, dict[str, bytes]).values() if span.blobs else ()


def _size(span: FoundSpan, blobs: Mapping[bytes, bytes]) -> int:
    """Bytes of a span as stored, with its payloads."""
    return len(span.body) + sum(len(blobs.get(digest, b"")) for digest in _references(span))


def _fresh(unit: Unit, row: AttemptRow, spans: Sequence[PackedSpan]) -> list[PackedSpan]:
    """Those of the spans that the attempt does not have, each once."""
    fresh: dict[str, PackedSpan] = {}
    for span in spans:
        fresh.setdefault(span.span_id, span)
    if row.spans:
        for span_id in unit.tables.spans.known(row.number, list(fresh)):
            del fresh[span_id]
    return list(fresh.values())


def _append(unit: Unit, row: AttemptRow, fresh: Sequence[PackedSpan], *, late: bool) -> bool:
    """Adds spans; whether they are late."""
    if not fresh:
        return late
    rows: list[SpanRow] = []
    reward_rows: list[RewardRow] = []
    size_bytes = row.size_bytes
    numbers = count((row.number << SEQUENCE_BITS) + row.spans + 1)
    for number, span in zip(numbers, fresh, strict=False):
        rows.append(
            SpanRow(
                number,
                row.number,
                span.span_id,
                span.operation,
                span.agent,
                late,
                span.body,
                span.name,
                span.start_ns,
                span.references,
            )
        )
        size_bytes += span.size_bytes
        if span.reward is not None and not late:
            reward_rows.append(_reward_row(number, row.number, span.reward))
        if span.blobs:
            unit.tables.blobs.add(span.blobs, attempt=row.number)
    unit.tables.spans.add(rows, rewards=reward_rows)
    unit.tables.attempts.count(
        row.number,
        spans=row.spans + len(rows),
        late=row.late + (len(rows) if late else 0),
        size_bytes=size_bytes,
    )
    return late


def _full(row: AttemptRow, fresh: Sequence[PackedSpan], limits: Limits) -> str | None:
    """Why an attempt takes no more spans, if it does not."""
    spans = row.spans + len(fresh)
    if spans > limits.attempt_spans and fresh:
        return (
            f"attempt {row.id!r} has {row.spans} spans and {len(fresh)} more came; it may have"
            f" {limits.attempt_spans}: it is marked as truncated; emit less, or raise the store's limits"
        )
    size_bytes = row.size_bytes + sum(span.size_bytes for span in fresh)
    if size_bytes > limits.attempt_bytes and fresh:
        return (
            f"the spans of attempt {row.id!r} would have {size_bytes} bytes; they may have {limits.attempt_bytes}:"
            " it is marked as truncated; shorten its attributes, or raise the store's limits"
        )
    return None


def _mark(unit: Unit, row: AttemptRow, reason: str) -> None:
    """Adds the one span that says that spans of an attempt are missing."""
    if unit.tables.spans.known(row.number, [MARKER_ID]):
        return
    now_ns = int(unit.now * 1e9)
    marker = Span(
        rollout_id=row.rollout_id,
        attempt_id=row.id,
        span_id=MARKER_ID,
        trace_id="0" * 32,
        name="truncated",
        operation=semconv.OPERATION_TRUNCATED,
        source=SpanSource.STORE,
        start_ns=now_ns,
        end_ns=now_ns,
        status=SpanStatus.ERROR,
        error=reason,
    )
    _append(unit, row, [packed_span(marker, limits=Limits())], late=_is_late(row, None))


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
    rest = (
        query.operations,
        query.names,
        query.agent,
        query.since_ns,
        query.until_ns,
        query.include_late,
    )
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
