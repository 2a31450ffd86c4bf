"""Reads what was captured of finished rollouts back from the store, as episodes."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.store import SpanQuery, Store
from agentlightning.types import Attempt, AttemptStatus, Episode, Rollout, Span

_PAGE = 5_000


async def read_episodes(store: Store, rollouts: Sequence[Rollout]) -> tuple[Episode, ...]:
    """One episode per rollout that had an attempt: its successful attempt, else its newest. Order is kept."""
    chosen = _chosen(await store.rollouts.attempts([rollout.id for rollout in rollouts]))
    spans = await _spans(store, tuple(attempt.id for attempt in chosen.values()))
    return tuple(
        Episode(rollout=rollout, attempt=attempt, spans=tuple(spans.get(attempt.id, ())))
        for rollout in rollouts
        if (attempt := chosen.get(rollout.id)) is not None
    )


def _chosen(attempts: Sequence[Attempt]) -> dict[str, Attempt]:
    chosen: dict[str, Attempt] = {}
    for attempt in attempts:
        known = chosen.get(attempt.rollout_id)
        if known is None or known.status is not AttemptStatus.SUCCEEDED:
            chosen[attempt.rollout_id] = attempt
    return chosen


async def _spans(store: Store, attempt_ids: tuple[str, ...]) -> dict[str, list[Span]]:
    spans: dict[str, list[Span]] = {}
    cursor: str | None = None
    while attempt_ids:
        page = await store.spans.page(SpanQuery(attempt_ids=attempt_ids), limit=_PAGE, cursor=cursor)
        for span in page.items:
            spans.setdefault(span.attempt_id, []).append(span)
        cursor = page.cursor
        if cursor is None:
            break
    return spans
