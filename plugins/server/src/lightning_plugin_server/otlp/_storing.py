"""Stores spans of many attempts so that those which the store refuses cost nobody else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from agentlightning.capture.otlp import Rejection
from agentlightning.errors import InvalidReward, LimitExceeded, NotFound
from agentlightning.store import Store
from agentlightning.types import Span

_REFUSALS: Final = (NotFound, LimitExceeded, InvalidReward, ValueError, TypeError)
_MOST_TRIES: Final = 64


class Storing:
    """One request's spans on their way to the store.

    Attributes:
        rejected: What the store refused.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tries = _MOST_TRIES
        self.rejected: list[Rejection] = []

    async def add(self, spans: Sequence[Span]) -> None:
        """Stores what the store takes: all at once, else by attempt, else by halves.

        Whatever was stored by a try that was refused is a duplicate in the next one, and that is no matter.

        Raises:
            StoreUnavailable: The store is away.
        """
        if not spans or await self._try(spans) is None:
            return
        attempts: dict[tuple[str, str], list[Span]] = defaultdict(list)
        for span in spans:
            attempts[span.rollout_id, span.attempt_id].append(span)
        for found in attempts.values():
            await self._add_one(found)

    async def _add_one(self, spans: Sequence[Span]) -> None:
        """Spans of one attempt."""
        refusal = await self._try(spans)
        if refusal is None:
            return
        if len(spans) == 1 or isinstance(refusal, NotFound) or self._tries <= 0:
            reason = str(refusal)
            self.rejected += [Rejection(span_id=span.span_id, reason=reason) for span in spans]
            return
        middle = len(spans) // 2
        await self._add_one(spans[:middle])
        await self._add_one(spans[middle:])

    async def _try(self, spans: Sequence[Span]) -> Exception | None:
        """Stores spans; why they are refused, if they are."""
        self._tries -= 1
        try:
            await self._store.spans.append(spans)
        except _REFUSALS as error:
            return error
        return None
