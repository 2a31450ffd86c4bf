"""`store.spans` over any executor: checks and encodes at the edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning.errors import InvalidReward, LimitExceeded
from agentlightning.store import _span_operations as operations
from agentlightning.store._codec import pack
from agentlightning.store._executor import Executor
from agentlightning.store._protocols import ALL_SPANS, AppendResult, Page, SpanQuery
from agentlightning.store._rollouts import parse_cursor
from agentlightning.store._rows import span_of
from agentlightning.store._span_operations import PackedSpan
from agentlightning.types import Reward, Span, reward_of

MAX_SPAN_BYTES: Final = 16 * 2**20
"""Largest span that is taken, encoded."""


class Spans:
    """The log of what was observed; see `SpanStore`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def append(self, spans: Sequence[Span], *, token: int | None = None) -> AppendResult:
        """Adds spans, idempotent by (attempt, span id), and numbers them gap-free per attempt."""
        batches: dict[str, list[PackedSpan]] = {}
        for span in spans:
            batches.setdefault(span.attempt_id, []).append(_packed(span))
        if not batches:
            return AppendResult(stored=0)
        return await self._executor.write(lambda unit: operations.append(unit, batches, token=token))

    async def page(self, query: SpanQuery, *, limit: int = 1000, cursor: str | None = None) -> Page[Span]:
        """A page of spans."""
        after = parse_cursor(cursor) or 0
        raw = await self._executor.read(lambda unit: operations.page(unit, query, limit=limit, cursor=after))
        spans = tuple(span_of(*row) for row in raw.spans)
        return Page(items=spans, cursor=str(raw.spans[-1][0]) if raw.more and spans else None)

    async def rewards(self, rollout_ids: Sequence[str]) -> list[Reward]:
        """Rewards of the rollouts' successful (or, where none succeeded, newest) attempts; late ones left out."""
        return await self._executor.read(lambda unit: operations.rewards(unit, rollout_ids))

    async def count(self, query: SpanQuery = ALL_SPANS) -> int:
        """How many spans match."""
        return await self._executor.read(lambda unit: operations.count_spans(unit, query))


def _packed(span: Span) -> PackedSpan:
    reward = _reward(span)
    body = pack(span, what=f"span {span.span_id!r}")
    if len(body) > MAX_SPAN_BYTES:
        raise LimitExceeded(
            f"span {span.span_id!r} ({span.name!r}) has {len(body)} bytes, the store takes {MAX_SPAN_BYTES};"
            " shorten its attributes; nothing of the batch was stored"
        )
    return PackedSpan(
        span.attempt_id, span.rollout_id, span.span_id, span.operation, span.agent, body, reward
    )


def _reward(span: Span) -> Reward | None:
    try:
        return reward_of(span)
    except InvalidReward as error:
        raise InvalidReward(f"span {span.span_id!r}: {error}; nothing of the batch was stored") from error
    except ValueError as error:
        raise InvalidReward(f"span {span.span_id!r} has a reward of unknown source: {error}") from error
