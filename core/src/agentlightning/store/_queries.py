"""What is asked of a store, and the slices in which it answers."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from agentlightning.types import Mode, RolloutStatus

Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item], frozen=True, kw_only=True):
    """A slice of a listing.

    Attributes:
        cursor: Hand it to the next call to read on; None after the last page.
    """

    items: tuple[Item, ...]
    cursor: str | None = None


class RolloutQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which rollouts; a field that is None does not restrict. Listings are in order of creation."""

    ids: tuple[str, ...] | None = None
    run_id: str | None = None
    group: str | None = None
    mode: Mode | None = None
    statuses: tuple[RolloutStatus, ...] | None = None
    newest_first: bool = False


class SpanQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which spans; a field that is None does not restrict. Ordered by attempt, then by sequence.

    Attributes:
        names: Exact span names.
        since_ns: Spans that started then or later, in nanoseconds since the epoch.
        until_ns: Spans that started before.
    """

    rollout_ids: tuple[str, ...] | None = None
    attempt_ids: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    agent: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    include_late: bool = False


class AppendResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of appended spans.

    Attributes:
        stored: Newly stored.
        duplicates: There already.
        late: Kept aside, because their attempt had ended.
        spooled: Durable on this machine's disk, on their way to a server that is away just now.
    """

    stored: int
    duplicates: int = 0
    late: int = 0
    spooled: int = 0


ALL_ROLLOUTS: Final = RolloutQuery()
"""Every rollout, oldest first."""

ALL_SPANS: Final = SpanQuery()
"""Every span that is not late."""
