"""`store.spans` over any executor: checks and encodes at the edge."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.errors import LimitExceeded
from agentlightning.store import _span_operations as operations
from agentlightning.store._executor import FEW, Executor
from agentlightning.store._limits import Limits
from agentlightning.store._packing import PackedSpan, packed_span, unpacked_span
from agentlightning.store._queries import (
    ALL_ROLLOUTS,
    ALL_SPANS,
    AppendResult,
    Page,
    RolloutQuery,
    SpanQuery,
)
from agentlightning.store._records import RewardKey, RewardSummary
from agentlightning.store._rollouts import check_batch, parse_cursor
from agentlightning.types import Reward, Span


class Spans:
    """The log of what was observed; see `SpanStore`."""

    def __init__(self, executor: Executor, *, limits: Limits) -> None:
        self._executor = executor
        self._limits = limits

    async def append(self, spans: Sequence[Span], *, token: int | None = None) -> AppendResult:
        """Adds spans, idempotent by (attempt, span id), and numbers them gap-free per attempt."""
        check_batch(spans, most=self._limits.batch)
        batches: dict[str, list[PackedSpan]] = {}
        for span in spans:
            batches.setdefault(span.attempt_id, []).append(packed_span(span, limits=self._limits))
        if not batches:
            return AppendResult(stored=0)
        appended = await self._executor.write(
            lambda unit: operations.append(unit, batches, token=token, limits=self._limits),
            light=len(spans) <= FEW,
        )
        if appended.refusal is not None:
            raise LimitExceeded(appended.refusal)
        return appended.result

    async def page(self, query: SpanQuery, *, limit: int = 1000, cursor: str | None = None) -> Page[Span]:
        """A page of spans."""
        _check_times(query)
        after = parse_cursor(cursor) or 0
        most_bytes = self._limits.page_bytes
        raw = await self._executor.read(
            lambda unit: operations.page(unit, query, limit=limit, most_bytes=most_bytes, cursor=after)
        )
        spans = tuple(unpacked_span(found, raw.blobs) for found in raw.spans)
        return Page(items=spans, cursor=str(raw.spans[-1].number) if raw.more and spans else None)

    async def rewards(self, rollout_ids: Sequence[str]) -> list[Reward]:
        """Rewards of the rollouts' successful (or, where none succeeded, newest) attempts; late ones left out."""
        return await self._executor.read(lambda unit: operations.rewards(unit, rollout_ids))

    async def count(self, query: SpanQuery = ALL_SPANS) -> int:
        """How many spans match."""
        _check_times(query)
        return await self._executor.read(lambda unit: operations.count_spans(unit, query))

    async def summarise(
        self, query: RolloutQuery = ALL_ROLLOUTS, *, by: RewardKey = RewardKey.DIMENSION
    ) -> list[RewardSummary]:
        """Count, mean and spread of the matching rollouts' rewards, by key and dimension, in their order."""
        return await self._executor.read(lambda unit: unit.tables.spans.summarise(query, by=by))


def _check_times(query: SpanQuery) -> None:
    for name in ("since_ns", "until_ns"):
        value = getattr(query, name)
        if value is not None and not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} is in nanoseconds since the epoch and has 64 bits, got {value!r}")
