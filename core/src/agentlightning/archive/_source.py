"""Everything in a store, read page by page through its public methods, in the order that an archive has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from agentlightning.archive._kinds import Item, Kind
from agentlightning.errors import NotFound, StoreError
from agentlightning.store import (
    AttemptRecord,
    EventRecord,
    MetricRecord,
    ResourceSetRecord,
    RolloutQuery,
    RolloutRecord,
    RunRecord,
    SpanQuery,
    SpanRecord,
    Store,
    lifecycle,
)
from agentlightning.types import Attempt, ResourceSet, Rollout, RolloutStatus, Run, Span

_Thing = TypeVar("_Thing")

_TERMINAL: Final = tuple(status for status in RolloutStatus if lifecycle.rollout_ended(status))
_MOST_SPANS: Final = 2_000
_FEWEST_SPANS: Final = 16
_PAGE_BYTES: Final = 16 * 2**20
_MOST_ROLLOUTS: Final = 500


class Part(NamedTuple):
    """Some items of one kind."""

    kind: Kind
    items: Sequence[Item]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is read.

    Attributes:
        run_id: Only this run, and what it used; None is everything.
        unfinished: Rollouts that are not over, too.
        rewards: Rewards by themselves, too.
    """

    run_id: str | None = None
    unfinished: bool = False
    rewards: bool = False


class _Sizes(NamedTuple):
    """How much is read at once, so that memory stays the same whatever the store has."""

    rollouts: int
    spans: int


async def parts_of(store: Store, selection: Selection) -> AsyncIterator[Part]:
    """Reads the selection; rollouts come in order of creation, their attempts and spans in the same order.

    Rollouts are read before what they refer to, and terminal ones before their spans: whatever others write
    meanwhile, nothing that is read lacks what it had when it was over.

    Raises:
        NotFound: There is no such run.
        StoreError: A rollout was deleted while it was read, or the store does not list all that it has.
    """
    if selection.run_id is not None:
        await store.runs.get(selection.run_id)
    used: set[str] = set()
    async for part in _rollouts(store, selection):
        if part.kind is Kind.ROLLOUTS:
            used |= {one.rollout.resources or "" for one in part.items if isinstance(one, RolloutRecord)}
        yield part
    for sets in _sliced(await _resource_sets(store, selection.run_id, used - {""})):
        yield Part(Kind.RESOURCE_SETS, [ResourceSetRecord(resource_set=one) for one in sets])
    for run in await _runs(store, selection.run_id):
        yield Part(Kind.RUNS, [RunRecord(run=run)])
        points = await store.runs.metrics(run.id)
        for some in _sliced(points):
            yield Part(Kind.METRICS, [MetricRecord(run_id=run.id, point=point) for point in some])
        events = list(enumerate(await store.runs.events(run.id)))
        for numbered in _sliced(events):
            items = [EventRecord(run_id=run.id, index=index, event=event) for index, event in numbered]
            yield Part(Kind.EVENTS, items)


async def _rollouts(store: Store, selection: Selection) -> AsyncIterator[Part]:
    query = RolloutQuery(run_id=selection.run_id, statuses=None if selection.unfinished else _TERMINAL)
    sizes = await _sizes(store)
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(query, limit=sizes.rollouts, cursor=cursor)
        rollouts, attempts = await _settled(store, page.items)
        if rollouts:
            yield Part(Kind.ROLLOUTS, [RolloutRecord(rollout=one) for one in rollouts])
            yield Part(Kind.ATTEMPTS, [AttemptRecord(attempt=one) for one in attempts])
            async for spans in _spans(store, attempts, limit=sizes.spans):
                yield Part(Kind.SPANS, [SpanRecord(span=span) for span in spans])
            if selection.rewards:
                yield Part(Kind.REWARDS, await store.spans.rewards([one.id for one in rollouts]))
            await _check_there(store, rollouts)
        cursor = page.cursor
        if cursor is None:
            return


async def _settled(store: Store, rollouts: Sequence[Rollout]) -> tuple[list[Rollout], list[Attempt]]:
    """The rollouts with their attempts as of one moment: those that changed between the reads are read again."""
    latest = {one.id: one for one in rollouts}
    attempts = await _attempts(store, list(latest))
    pending = [one.id for one in rollouts if one.status not in _TERMINAL]
    while pending:
        again = {one.id: one for one in await _by_id(store, pending)}
        pending = [name for name in pending if again.get(name, latest[name]) != latest[name]]
        latest |= again
        attempts |= await _attempts(store, pending)
    return list(latest.values()), [attempt for name in latest for attempt in attempts.get(name, ())]


async def _attempts(store: Store, rollout_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for attempt in await store.rollouts.attempts(rollout_ids) if rollout_ids else ():
        found.setdefault(attempt.rollout_id, []).append(attempt)
    return found


async def _spans(store: Store, attempts: Sequence[Attempt], *, limit: int) -> AsyncIterator[Sequence[Span]]:
    """The spans of the attempts, in their order: as one page if they fit, else by half."""
    if not attempts:
        return
    query = SpanQuery(attempt_ids=tuple(one.id for one in attempts), include_late=True)
    page = await store.spans.page(query, limit=limit)
    if page.cursor is not None and len(attempts) > 1:
        middle = len(attempts) // 2
        for half in (attempts[:middle], attempts[middle:]):
            async for spans in _spans(store, half, limit=limit):
                yield spans
        return
    places = {one.id: place for place, one in enumerate(attempts)}
    yield sorted(page.items, key=lambda span: (places[span.attempt_id], span.sequence))
    while page.cursor is not None:
        page = await store.spans.page(query, limit=limit, cursor=page.cursor)
        yield page.items


async def _check_there(store: Store, rollouts: Sequence[Rollout]) -> None:
    there = {one.id for one in await _by_id(store, [one.id for one in rollouts])}
    for rollout in rollouts:
        if rollout.id not in there:
            raise StoreError(
                f"rollout {rollout.id!r} was deleted while it was exported, maybe by a trim; export again"
            )


async def _by_id(store: Store, rollout_ids: Sequence[str]) -> list[Rollout]:
    found: list[Rollout] = []
    cursor: str | None = None
    while True:
        query = RolloutQuery(ids=tuple(rollout_ids))
        page = await store.rollouts.list(query, limit=len(rollout_ids), cursor=cursor)
        found += page.items
        cursor = page.cursor
        if cursor is None:
            return found


async def _sizes(store: Store) -> _Sizes:
    found = await store.statistics()
    mean_bytes = max(1, found.span_bytes // max(1, found.spans))
    spans = max(_FEWEST_SPANS, min(_MOST_SPANS, _PAGE_BYTES // mean_bytes))
    per_rollout = max(1, found.spans // max(1, sum(found.rollouts.values())))
    return _Sizes(max(1, min(_MOST_ROLLOUTS, spans // per_rollout)), spans)


async def _resource_sets(store: Store, run_id: str | None, used: set[str]) -> list[ResourceSet]:
    """The sets of the run and those that its rollouts used, or all; oldest first."""
    expected = (await store.statistics()).resource_sets
    listed = await store.resources.list(run_id=run_id, limit=expected + 1_000)
    if run_id is None:
        _check_listed("resource sets", listed=len(listed), expected=expected)
    found = {one.id: one for one in listed}
    for set_id in sorted(used - found.keys()):
        try:
            found[set_id] = await store.resources.get(set_id)
        except NotFound:  # a rollout may pin a set that this store never had
            continue
    return sorted(found.values(), key=lambda one: one.version)


async def _runs(store: Store, run_id: str | None) -> list[Run]:
    """The run, or all; oldest first."""
    if run_id is not None:
        return [await store.runs.get(run_id)]
    expected = (await store.statistics()).runs
    listed = await store.runs.list(limit=expected + 1_000)
    _check_listed("runs", listed=len(listed), expected=expected)
    return listed[::-1]


def _check_listed(what: str, *, listed: int, expected: int) -> None:
    if listed < expected:
        raise StoreError(
            f"the store has {expected} {what} and lists only {listed}; export one run at a time with --run"
        )


def _sliced(things: Sequence[_Thing]) -> Iterable[Sequence[_Thing]]:
    return (things[start : start + _MOST_SPANS] for start in range(0, len(things), _MOST_SPANS))
