"""Each broken store fails exactly the contract test that is about what it breaks."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Self

import msgspec
import pytest

from agentlightning.errors import Conflict, LeaseLost, NotFound
from agentlightning.store import MemoryStore, RolloutQuery, SpanQuery
from agentlightning.testing import ManualClock, StoreContract

Fault = Callable[..., Awaitable[Any]]


class Part:
    """One part of a store, with some of its methods replaced; a replacement gets the real part first."""

    def __init__(self, real: object, faults: dict[str, Fault]) -> None:
        self._real = real
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        if name in self._faults:
            return functools.partial(self._faults[name], self._real)
        return getattr(self._real, name)


class BrokenStore:
    """A memory store with faults, named `part.method`."""

    def __init__(self, clock: ManualClock, faults: dict[str, Fault]) -> None:
        self._real = MemoryStore(clock=clock)
        self.url = self._real.url
        for name in ("sweep", "statistics", "trim", "load"):
            fault = faults.get(f"store.{name}")
            method = getattr(self._real, name)
            setattr(self, name, method if fault is None else functools.partial(fault, self._real))
        for part in ("rollouts", "spans", "resources", "runs"):
            chosen = {
                name.removeprefix(f"{part}."): fault
                for name, fault in faults.items()
                if name.startswith(part)
            }
            setattr(self, part, Part(getattr(self._real, part), chosen))

    async def __aenter__(self) -> Self:
        await self._real.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._real.__aexit__(*exc)


async def _lease_ignores_limit(real: Any, worker: str, *, limit: int = 1, **options: Any) -> Any:
    exact = limit != 2 or "idempotency_key" in options
    return await real.lease(worker, limit=limit if exact else limit + 1, **options)


async def _key_forgives_other_requests(real: Any, requests: Any, *, idempotency_key: Any = None) -> Any:
    try:
        return await real.enqueue(requests, idempotency_key=idempotency_key)
    except Conflict:
        if idempotency_key is None:
            raise
        return (await real.list()).items


async def _forgets_groups(real: Any, query: Any = RolloutQuery(), **options: Any) -> Any:  # noqa: B008
    return await real.list(msgspec.structs.replace(query, group=None), **options)


async def _oldest_first(real: Any, query: Any = RolloutQuery(), **options: Any) -> Any:  # noqa: B008
    return await real.list(msgspec.structs.replace(query, newest_first=False), **options)


async def _waits_in_order_of_creation(real: Any, ids: Any = None, **options: Any) -> Any:
    done = await real.wait(ids, **options)
    if ids is None:
        return done
    return sorted(done, key=lambda rollout: ids.index(rollout.id), reverse=len(done) < len(ids))


async def _completes_everything(real: Any, **options: Any) -> Any:
    options.pop("run_id", None)
    return await real.completions(**options)


async def _refuses_to_repeat_a_finish(real: Any, attempt_id: str, **options: Any) -> Any:
    before = len(await real.completions())
    rollout = await real.finish(attempt_id, **options)
    if rollout.finished_at is not None and len(await real.completions()) == before:
        raise LeaseLost("again")
    return rollout


async def _cancels_what_it_finds(real: Any, ids: Any, **options: Any) -> Any:
    try:
        return await real.cancel(ids, **options)
    except NotFound:
        await real.cancel(ids[:1], **options)
        raise


async def _hides_cancellation(real: Any, attempt_id: str, **options: Any) -> Any:
    return msgspec.structs.replace(await real.heartbeat(attempt_id, **options), cancelled=False)


async def _shows_late_spans(real: Any, query: Any, **options: Any) -> Any:
    return await real.page(msgspec.structs.replace(query, include_late=True), **options)


async def _counts_late_spans(real: Any, query: Any = SpanQuery()) -> Any:  # noqa: B008
    return await real.count(msgspec.structs.replace(query, include_late=True))


async def _wins_every_race(real: Any, resources: Any, *, parent: Any = None, **options: Any) -> Any:
    live = await real.live()
    wanted = live.id if live is not None and not options else parent
    return await real.publish(resources, parent=wanted, **options)


async def _keeps_points_as_they_came(real: Any, run_id: str, **options: Any) -> Any:
    return sorted(await real.metrics(run_id, **options), key=lambda point: (point.name, str(point.step)))


async def _overwrites_the_summary(real: Any, run_id: str, *, summary: Any = None, **options: Any) -> Any:
    run = await real.update(run_id, summary=summary, **options)
    return run if summary is None else msgspec.structs.replace(run, summary=dict(summary))


async def _forgets_lease_keys(real: Any, worker: str, *, idempotency_key: Any = None, **options: Any) -> Any:
    return await real.lease(worker, **options)


async def _remembers_empty_leases(
    real: Any, worker: str, *, idempotency_key: Any = None, wait_s: float = 0.0, **options: Any
) -> Any:
    seen = real.__dict__.setdefault("_empty", set())
    if idempotency_key in seen:
        return []
    found = await real.lease(worker, idempotency_key=idempotency_key, wait_s=wait_s, **options)
    if idempotency_key is not None and not found:
        seen.add(idempotency_key)
    return found


async def _takes_work_of_any_run_after_waiting(
    real: Any, worker: str, *, wait_s: float = 0.0, run_id: Any = None, **options: Any
) -> Any:
    return await real.lease(worker, wait_s=wait_s, run_id=None if wait_s else run_id, **options)


async def _waits_for_the_group_s_first_only(
    real: Any, ids: Any = None, *, group: Any = None, run_id: Any = None, **options: Any
) -> Any:
    done = await real.wait(ids, group=group, run_id=run_id, **options)
    return done if group is None else done[:1]


async def _waits_for_anything(real: Any, ids: Any = None, **options: Any) -> Any:
    given = [options.get("group"), options.get("run_id"), ids]
    if sum(one is not None for one in given) != 1:
        return []
    return await real.wait(ids, **options)


async def _ignores_names(real: Any, query: Any = SpanQuery(), **options: Any) -> Any:  # noqa: B008
    return await real.page(msgspec.structs.replace(query, names=None), **options)


async def _cuts_long_attributes(real: Any, query: Any = SpanQuery(), **options: Any) -> Any:  # noqa: B008
    page = await real.page(query, **options)
    cut = [
        msgspec.structs.replace(
            one,
            attributes={
                name: value[:25_000] if isinstance(value, str) else value
                for name, value in one.attributes.items()
            },
        )
        for one in page.items
    ]
    return msgspec.structs.replace(page, items=tuple(cut))


async def _forgets_publish_keys(
    real: Any, resources: Any, *, idempotency_key: Any = None, **options: Any
) -> Any:
    if idempotency_key is None:
        return await real.publish(resources, **options)
    live = await real.live()
    return await real.publish(resources, parent=live and live.id)


async def _makes_runs_once_only(real: Any, run: Any) -> Any:
    if any(one.id == run.id for one in await real.list()):
        raise Conflict(f"run id {run.id!r} is taken")
    return await real.create(run)


async def _forgets_log_keys(real: Any, run_id: str, *, idempotency_key: Any = None, **options: Any) -> Any:
    await real.log(run_id, **options)


async def _counts_no_queue(real: Any) -> Any:
    return msgspec.structs.replace(await real.statistics(), oldest_queued_at=None)


async def _summarises_by_dimension_only(real: Any, query: Any = RolloutQuery(), **options: Any) -> Any:  # noqa: B008
    return await real.summarise(query)


async def _trims_the_newest(real: Any, retention: Any) -> Any:
    if retention.max_rollouts != 2:
        return await real.trim(retention)
    return await real.trim(msgspec.structs.replace(retention, max_rollouts=1))


async def _knows_no_age(real: Any, retention: Any) -> Any:
    if retention.max_age_s is None:
        return await real.trim(retention)
    return await real.trim(msgspec.structs.replace(retention, max_age_s=1e9))


async def _trims_by_nothing(real: Any, retention: Any) -> Any:
    return None if retention == type(retention)() else await real.trim(retention)


async def _counts_skipped_records_as_added(real: Any, records: Any) -> Any:
    loaded = await real.load(records)
    return msgspec.structs.replace(loaded, added=len(records), skipped=0)


async def _skips_other_rollouts(real: Any, records: Any) -> Any:
    try:
        return await real.load(records)
    except Conflict:
        return None


async def _skips_orphans(real: Any, records: Any) -> Any:
    try:
        return await real.load(records)
    except NotFound:
        return None


BROKEN: dict[str, tuple[dict[str, Fault], str]] = {
    "takes more than its limit": (
        {"rollouts.lease": _lease_ignores_limit},
        "test_a_lease_takes_no_more_than_its_limit",
    ),
    "forgives a key with other requests": (
        {"rollouts.enqueue": _key_forgives_other_requests},
        "test_a_repeated_key_with_other_requests_is_a_conflict",
    ),
    "forgets groups": (
        {"rollouts.list": _forgets_groups},
        "test_listings_are_restricted_by_every_field_of_the_query",
    ),
    "knows no newest": ({"rollouts.list": _oldest_first}, "test_listings_can_begin_with_the_newest"),
    "waits in its own order": (
        {"rollouts.wait": _waits_in_order_of_creation},
        "test_wait_returns_the_terminal_ones_in_the_given_order",
    ),
    "completes other runs": (
        {"rollouts.completions": _completes_everything},
        "test_completions_of_a_run_leave_others_out",
    ),
    "refuses a repeated finish": (
        {"rollouts.finish": _refuses_to_repeat_a_finish},
        "test_repeating_an_identical_finish_changes_nothing",
    ),
    "cancels half": (
        {"rollouts.cancel": _cancels_what_it_finds},
        "test_cancel_of_an_unknown_rollout_cancels_nothing",
    ),
    "hides cancellation": (
        {"rollouts.heartbeat": _hides_cancellation},
        "test_cancel_reaches_the_worker_through_its_heartbeat",
    ),
    "shows late spans": (
        {"spans.page": _shows_late_spans},
        "test_late_spans_are_kept_aside_and_revive_nothing",
    ),
    "counts late spans": (
        {"spans.count": _counts_late_spans},
        "test_count_leaves_late_spans_out_unless_asked",
    ),
    "overwrites what is live": (
        {"resources.publish": _wins_every_race},
        "test_publishing_as_live_needs_the_live_set_as_parent",
    ),
    "sorts steps as text": (
        {"runs.metrics": _keeps_points_as_they_came},
        "test_metric_points_come_by_name_and_step_and_the_last_one_counts",
    ),
    "replaces the summary": (
        {"runs.update": _overwrites_the_summary},
        "test_update_changes_what_is_given_and_merges_the_summary",
    ),
    "forgets the keys of leases": (
        {"rollouts.lease": _forgets_lease_keys},
        "test_a_lease_repeated_under_its_key_gives_the_same_leases",
    ),
    "remembers leases that found nothing": (
        {"rollouts.lease": _remembers_empty_leases},
        "test_a_lease_that_found_nothing_can_be_repeated_under_its_key",
    ),
    "takes work of any run": (
        {"rollouts.lease": _takes_work_of_any_run_after_waiting},
        "test_a_worker_waits_for_its_run_only",
    ),
    "waits for the first of a group": (
        {"rollouts.wait": _waits_for_the_group_s_first_only},
        "test_wait_for_a_group_or_a_run_waits_for_all_of_it",
    ),
    "waits for nothing": (
        {"rollouts.wait": _waits_for_anything},
        "test_wait_needs_exactly_one_thing_to_wait_for",
    ),
    "ignores names": ({"spans.page": _ignores_names}, "test_spans_are_found_by_name_and_time"),
    "cuts long attributes": (
        {"spans.page": _cuts_long_attributes},
        "test_a_span_with_large_attributes_comes_back_as_it_was",
    ),
    "forgets the keys of sets": (
        {"resources.publish": _forgets_publish_keys},
        "test_a_set_published_again_under_its_key_is_there_once",
    ),
    "makes a run once only": (
        {"runs.create": _makes_runs_once_only},
        "test_creating_the_same_run_again_changes_nothing",
    ),
    "forgets the keys of logs": (
        {"runs.log": _forgets_log_keys},
        "test_events_logged_again_under_the_same_key_are_there_once",
    ),
    "does not know how long work waits": (
        {"store.statistics": _counts_no_queue},
        "test_statistics_count_everything",
    ),
    "summarises by dimension": (
        {"spans.summarise": _summarises_by_dimension_only},
        "test_rewards_are_summarised_by_key_and_dimension",
    ),
    "trims too many": (
        {"store.trim": _trims_the_newest},
        "test_trim_deletes_the_oldest_terminal_rollouts_with_all_that_is_theirs",
    ),
    "knows no age": ({"store.trim": _knows_no_age}, "test_trim_by_age_and_by_size"),
    "trims without a retention": (
        {"store.trim": _trims_by_nothing},
        "test_a_retention_that_says_nothing_is_refused",
    ),
    "counts skipped records": (
        {"store.load": _counts_skipped_records_as_added},
        "test_what_one_store_exported_another_takes_in",
    ),
    "skips other rollouts": (
        {"store.load": _skips_other_rollouts},
        "test_another_rollout_under_a_loaded_id_is_a_conflict",
    ),
    "skips orphans": (
        {"store.load": _skips_orphans},
        "test_a_record_without_what_it_belongs_to_is_refused",
    ),
}
"""Faults by name, each with the one contract test that fails."""

TESTS = {
    name: test
    for name, test in inspect.getmembers(StoreContract, inspect.isfunction)
    # those that take parameters or a folder are about the kinds of failure and the opening, which nothing here breaks
    if name.startswith("test_") and set(inspect.signature(test).parameters) <= {"self", "store", "clock"}
}
PATIENCE_S = 2.0


async def passes(test: Any, faults: Any) -> bool:
    clock = ManualClock()
    async with BrokenStore(clock, faults) as store:
        chosen = {"store": store, "clock": clock}
        arguments = {name: chosen[name] for name in inspect.signature(test).parameters if name in chosen}
        try:
            await asyncio.wait_for(test(StoreContract(), **arguments), PATIENCE_S)
        except (Exception, pytest.fail.Exception):  # noqa: BLE001 - a contract test may fail in any way
            return False
        return True


async def test_a_store_without_faults_passes() -> None:
    assert [name for name, test in TESTS.items() if not await passes(test, {})] == []
    assert len(TESTS) > 90


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_store_fails_exactly_one_contract_test(fault: str) -> None:
    faults, expected = BROKEN[fault]
    assert [name for name, test in TESTS.items() if not await passes(test, faults)] == [expected]
