"""Compares a store with the ledger of those who wrote to it: everything acknowledged is there, exactly once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from agentlightning.errors import LeaseLost
from agentlightning.store import RolloutQuery, SpanQuery
from agentlightning.store.lifecycle import attempt_ended, rollout_ended
from agentlightning.types import Attempt, AttemptStatus, Rollout, RolloutStatus
from faults import requests
from faults.invariants import require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentlightning.store import Store
    from faults.ledger import Ledger

_PAGE = 2000
_SOON_S = 30.0
_LAG_S = 10.0
"""How late a loaded machine may notice that a lease is over."""


async def ask_again(store: Store, ledger: Ledger) -> int:
    """Repeats every request that had no answer, with its key; afterwards it counts as acknowledged."""
    doubtful = list(ledger.doubtful.items())
    ledger.doubtful.clear()
    for (verb, _), asked in doubtful:
        await _ASK[verb](store, ledger, *asked)
    return len(doubtful)


async def wait_until_free(store: Store) -> float:
    """Waits until nothing is leased any more; how long it took, in seconds."""
    began = time.monotonic()
    running = RolloutQuery(statuses=(RolloutStatus.RUNNING,))
    while (await store.rollouts.list(running, limit=1)).items:
        waited_s = time.monotonic() - began
        require(
            waited_s < requests.TTL_S + _LAG_S, "a lease of the dead does not end, after seconds", waited_s
        )
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def verify(store: Store, ledger: Ledger, *, skew_s: float = 0.0) -> Counter[str]:
    """Checks everything; counts what is there.

    Args:
        skew_s: How far apart the times of two transactions may be from their order, in seconds.

    Raises:
        Violation: Something acknowledged is missing, there twice, or different.
    """
    require(not ledger.contradictions, "somebody was told otherwise", ledger.contradictions[:5])
    rollouts = {each.id: each async for each in _rollouts(store)}
    attempts = await _attempts(store, list(rollouts))
    _check_queue(ledger, rollouts)
    _check_attempts(ledger, rollouts, attempts, skew_s)
    await _check_completions(store, rollouts)
    spans = await _check_spans(store, ledger, attempts)
    rewards = await _check_rewards(store, ledger, rollouts, attempts)
    await _check_runs(store, ledger)
    sets = await _check_resources(store, ledger)
    return Counter(
        rollouts=len(rollouts), attempts=len(attempts), spans=spans, rewards=rewards, resource_sets=sets
    )


async def glance(store: Store, ledger: Ledger, *, most: int = 40) -> None:
    """Checks the newest of what was acknowledged, while others write on."""
    ids = [name for names in list(ledger.enqueued.values())[-most:] for name in names]
    terminal = list(ledger.terminal.items())[-most:]
    batches = [(name, len(numbers)) for name, numbers in list(ledger.batches.items())[-most:]]
    for name in ids:
        require((await store.rollouts.get(name)).id == name, "an acknowledged rollout is lost", name)
    for name, status in terminal:
        require((await store.rollouts.get(name)).status == status, "an end was not final", name, status)
    if not ledger.spooled:
        for name, count in batches:
            found = await store.spans.count(SpanQuery(attempt_ids=(name,), include_late=True))
            require(found >= count * requests.BATCH, "acknowledged spans are lost", name, found, count)


async def _enqueue(store: Store, ledger: Ledger, key: str, count: int) -> None:
    ledger.enqueued[key] = [each.id for each in await requests.enqueue(store, key, count)]


async def _lease(store: Store, ledger: Ledger, key: str, limit: int) -> None:
    ledger.leased[key] = [each.attempt.id for each in await requests.lease(store, key, limit)]


async def _append(store: Store, ledger: Ledger, name: str, batch: int, token: int) -> None:
    result = await requests.append(store, name, batch, token)
    total = result.stored + result.late + result.duplicates
    require(total == requests.BATCH, "a repeated append did not take all", name, result)
    some = 0 < result.duplicates < requests.BATCH
    require(not some, "an append was stored by half", name, batch, result)
    ledger.batches.setdefault(name, set()).add(batch)


async def _finish(store: Store, ledger: Ledger, name: str, token: int, succeeds: bool) -> None:
    try:
        await requests.finish(store, name, token, succeeds)
    except LeaseLost:
        return
    ledger.finished[name] = succeeds


async def _cancel(store: Store, ledger: Ledger, name: str) -> None:
    (rollout,) = await store.rollouts.cancel([name])
    ledger.terminal.setdefault(name, rollout.status.value)


async def _log(store: Store, ledger: Ledger, key: str, run_id: str) -> None:
    await requests.log(store, key, run_id)
    ledger.logged.setdefault(run_id, []).append(key)


async def _publish(store: Store, ledger: Ledger, key: str) -> None:
    published = await requests.publish(store, key)
    ledger.published[key] = (published.id, published.version)


async def _create(store: Store, ledger: Ledger, run_id: str) -> None:
    await requests.create(store, run_id)
    ledger.runs.add(run_id)


_ASK: dict[str, Any] = {
    "enqueue": _enqueue,
    "lease": _lease,
    "append": _append,
    "finish": _finish,
    "cancel": _cancel,
    "log": _log,
    "publish": _publish,
    "create": _create,
}


async def _rollouts(store: Store) -> AsyncIterator[Rollout]:
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(limit=_PAGE, cursor=cursor)
        for rollout in page.items:
            yield rollout
        cursor = page.cursor
        if cursor is None:
            return


async def _attempts(store: Store, ids: list[str]) -> dict[str, Attempt]:
    found: dict[str, Attempt] = {}
    for start in range(0, len(ids), _PAGE):
        attempts = await store.rollouts.attempts(ids[start : start + _PAGE])
        found |= {each.id: each for each in attempts}
    return found


def _check_queue(ledger: Ledger, rollouts: dict[str, Rollout]) -> None:
    by_key: dict[str, list[str]] = defaultdict(list)
    for rollout in rollouts.values():
        by_key[rollout.group or ""].append(rollout.id)
    for key, ids in ledger.enqueued.items():
        require(by_key.pop(key, []) == ids, "a key has other rollouts than were acknowledged", key, ids)
        tasks = [rollouts[name].task for name in ids]
        require(tasks == [[key, number] for number in range(len(ids))], "tasks changed", key, tasks)
    require(not by_key, "rollouts that nobody asked for", list(by_key.items())[:3])
    for name, status in ledger.terminal.items():
        require(rollouts[name].status == status, "an end was not final", rollouts[name], status)


def _check_attempts(
    ledger: Ledger, rollouts: dict[str, Rollout], attempts: dict[str, Attempt], skew_s: float
) -> None:
    by_worker: dict[str, list[Attempt]] = defaultdict(list)
    by_rollout: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts.values():
        require(attempt_ended(attempt.status), "an attempt of the dead is open", attempt)
        by_worker[attempt.worker].append(attempt)
        by_rollout[attempt.rollout_id].append(attempt)
    for key, names in ledger.leased.items():
        _check_lease(key, names, by_worker.pop(key, []), skew_s)
    require(not by_worker, "attempts of nobody", list(by_worker.items())[:3])
    for name in ledger.heard:
        require(attempts[name].status is not AttemptStatus.LEASED, "a heartbeat was lost", attempts[name])
    for name, succeeds in ledger.finished.items():
        found = attempts[name]
        expected = (AttemptStatus.SUCCEEDED, name) if succeeds else (AttemptStatus.FAILED, None)
        require((found.status, found.output) == expected, "an acknowledged finish is lost", found)
    for name, rollout in rollouts.items():
        tries = by_rollout[name]
        succeeded = [each for each in tries if each.status is AttemptStatus.SUCCEEDED]
        require(
            len(succeeded) == (rollout.status is RolloutStatus.SUCCEEDED), "successes", rollout, succeeded
        )
        sequences = [each.sequence for each in tries]
        require(sequences == list(range(1, rollout.attempts + 1)), "attempts miscounted", rollout, sequences)
        for one, other in pairwise(tries):
            require((one.finished_at or 0.0) - skew_s <= other.leased_at, "two leases at once", one, other)


def _check_lease(key: str, names: list[str], attempts: list[Attempt], skew_s: float) -> None:
    """A call took its leases once; it may have taken others only when the first had ended before their answer."""
    found = {each.id for each in attempts}
    require(set(names) <= found, "acknowledged leases are lost", key, names)
    times = sorted({each.leased_at for each in attempts})
    for first, later in pairwise(times):
        of_first = [each for each in attempts if each.leased_at == first]
        held = [each for each in of_first if (each.finished_at or 0.0) - skew_s > later]
        require(not held, "one lease call had two effects", key, held)


async def _check_completions(store: Store, rollouts: dict[str, Rollout]) -> None:
    after, completed = 0, []
    while page := await store.rollouts.completions(after=after, limit=_PAGE):
        cursors = [each.cursor for each in page]
        require(cursors == list(range(after + 1, after + len(page) + 1)), "a gap in completions after", after)
        completed += [each.rollout.id for each in page]
        after = cursors[-1]
    terminal = [each.id for each in rollouts.values() if rollout_ended(each.status)]
    require(sorted(terminal) == sorted(completed), "completions differ from what is terminal")


async def _check_spans(store: Store, ledger: Ledger, attempts: dict[str, Attempt]) -> int:
    ids: dict[str, list[str]] = {}
    late: Counter[str] = Counter()
    cursor: str | None = None
    while True:
        page = await store.spans.page(SpanQuery(include_late=True), limit=_PAGE, cursor=cursor)
        for span in page.items:
            known = ids.setdefault(span.attempt_id, [])
            known.append(span.span_id)
            late[span.attempt_id] += span.late
            require(span.sequence == len(known), "a gap in the spans of", span.attempt_id, span.sequence)
        cursor = page.cursor
        if cursor is None:
            break
    require(ids.keys() <= attempts.keys(), "spans of nobody", list(ids.keys() - attempts.keys())[:3])
    for name, batches in ledger.batches.items():
        found = ids.get(name, [])
        expected = {span_id for batch in batches for span_id in requests.span_ids(batch)}
        require(set(found) == expected, "spans are lost or unasked for", name, len(found), len(expected))
        require(len(found) == len(expected), "spans are there twice", name)
        require(late[name] >= ledger.late[name], "late spans are not told apart", name, late[name])
    require(ids.keys() <= ledger.batches.keys(), "spans that nobody asked for")
    return sum(map(len, ids.values()))


async def _check_rewards(
    store: Store, ledger: Ledger, rollouts: dict[str, Rollout], attempts: dict[str, Attempt]
) -> int:
    counting = [
        name for name, succeeds in ledger.finished.items() if succeeds and 0 in ledger.batches.get(name, ())
    ]
    total = 0
    for start in range(0, len(counting), _PAGE):
        names = counting[start : start + _PAGE]
        found = await store.spans.rewards([attempts[name].rollout_id for name in names])
        values = {each.attempt_id: each.value for each in found}
        require(len(values) == len(found), "a reward is there twice")
        for name in names:
            if not ledger.late[name]:
                require(
                    values.get(name) == requests.value_of(name),
                    "a reward is lost or wrong",
                    name,
                    values.get(name),
                )
        total += len(found)
    return total


async def _check_runs(store: Store, ledger: Ledger) -> None:
    for run_id in ledger.runs:
        require((await store.runs.get(run_id)).id == run_id, "a run is lost", run_id)
        keys = sorted(ledger.logged.get(run_id, []))
        events = sorted(each.message for each in await store.runs.events(run_id))
        require(events == keys, "events are lost or there twice", run_id, len(events), len(keys))
        points = {each.name: each.value for each in await store.runs.metrics(run_id)}
        require(points == {key: requests.value_of(key) for key in keys}, "metrics are lost", run_id)


async def _check_resources(store: Store, ledger: Ledger) -> int:
    sets = await store.resources.list(limit=10_000)
    versions = sorted(each.version for each in sets)
    require(versions == list(range(1, len(sets) + 1)), "versions have gaps or came twice", versions)
    found = {(each.resources["prompt"].value["template"], each.id, each.version) for each in sets}
    expected = {(key, *published) for key, published in ledger.published.items()}
    require(found == expected, "resource sets are lost or there twice", found ^ expected)
    return len(sets)
