"""Each broken store fails exactly the contract test that is about what it breaks."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentlightning import semconv
from agentlightning.errors import Conflict, LeaseLost, LimitExceeded, NotFound
from agentlightning.store import (
    AppendResult,
    AttemptRecord,
    RolloutQuery,
    RolloutRecord,
    SpanQuery,
    SpanRecord,
)
from agentlightning.testing._store_faults import Fault, contract_tests, failures, passes, swallowing
from agentlightning.types import AttemptStatus, RolloutStatus, RunStatus


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
    if summary is None or run.status is not RunStatus.RUNNING:
        return run
    return msgspec.structs.replace(run, summary=dict(summary))


async def _forgets_lease_keys(real: Any, worker: str, *, idempotency_key: Any = None, **options: Any) -> Any:
    found = await real.lease(worker, idempotency_key=idempotency_key, **options)
    seen = real.__dict__.setdefault("_keys", set())
    if idempotency_key in seen and found:
        return await real.lease(worker, **options)
    if found and idempotency_key is not None:
        seen.add(idempotency_key)
    return found


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
        if len(records) > 1 or not isinstance(records[0], RolloutRecord):
            raise
        return None


async def _skips_orphans(real: Any, records: Any) -> Any:
    try:
        return await real.load(records)
    except NotFound:
        return None


async def _serves_three_waiting_workers(
    real: Any, worker: str, *, wait_s: float = 0.0, **options: Any
) -> Any:
    if wait_s and not options:
        real.__dict__["_served"] = real.__dict__.get("_served", 0) + 1
        if real.__dict__["_served"] > 3:
            return []
    return await real.lease(worker, wait_s=wait_s, **options)


async def _summarises_all_attempts(real: Any, query: Any = RolloutQuery(), **options: Any) -> Any:  # noqa: B008
    found = await real.summarise(query, **options)
    rewards = await real.count(SpanQuery(operations=(semconv.OPERATION_REWARD,)))
    if options or len(found) != 1 or found[0].count == rewards:
        return found
    return [msgspec.structs.replace(found[0], count=rewards)]


async def _ends_all_runs_before_it_trims(real: Any, retention: Any) -> Any:
    for run in await real.runs.list():
        if run.status is RunStatus.RUNNING:
            await real.runs.update(run.id, status=RunStatus.SUCCEEDED)
    return await real.trim(retention)


async def _trims_more_when_it_is_busy(real: Any, retention: Any) -> Any:
    real.__dict__["_busy"] = real.__dict__.get("_busy", 0) + 1
    await asyncio.sleep(0)
    if real.__dict__["_busy"] > 1:
        retention = msgspec.structs.replace(retention, max_rollouts=retention.max_rollouts - 1)
    trimmed = await real.trim(retention)
    real.__dict__["_busy"] -= 1
    return trimmed


async def _counts_completions_that_are_left(real: Any, *, after: int = 0, **options: Any) -> Any:
    found = await real.completions(after=after, **options)
    left = await real.completions(limit=1000)
    gap = 0 if not left else left[-1].cursor - len(left)
    return [msgspec.structs.replace(one, cursor=one.cursor - gap) for one in found]


async def _asks_for_the_rollouts_of_a_repeated_lease(
    real: Any, worker: str, *, idempotency_key: Any = None, **options: Any
) -> Any:
    answers = real.__dict__.setdefault("_answers", {})
    for lease in answers.get(idempotency_key, ()):
        await real.get(lease.rollout.id)
    found = await real.lease(worker, idempotency_key=idempotency_key, **options)
    if idempotency_key is not None:
        answers[idempotency_key] = found
    return found


async def _checks_the_queue_before_the_key(real: Any, requests: Any, *, idempotency_key: Any = None) -> Any:
    if idempotency_key == "full" and len((await real.list()).items) == 2:
        raise LimitExceeded("the queue is full")
    return await real.enqueue(requests, idempotency_key=idempotency_key)


async def _hides_markers(real: Any, query: Any = SpanQuery(), **options: Any) -> Any:  # noqa: B008
    page = await real.page(query, **options)
    shown = tuple(one for one in page.items if one.operation != semconv.OPERATION_TRUNCATED)
    return msgspec.structs.replace(page, items=shown)


async def _loads_what_comes_before_a_conflict(real: Any, records: Any) -> Any:
    try:
        return await real.load(records)
    except Conflict:
        if len(records) > 1:
            await real.load(records[:1])
        raise


async def _forgets_what_was_late(real: Any, records: Any) -> Any:
    return await real.load(
        [
            SpanRecord(span=msgspec.structs.replace(one.span, late=False))
            if isinstance(one, SpanRecord)
            else one
            for one in records
        ]
    )


async def _leaves_attempts_of_running_rollouts_out(real: Any, records: Any) -> Any:
    open_ = {
        one.rollout.id
        for one in records
        if isinstance(one, RolloutRecord) and one.rollout.status is RolloutStatus.RUNNING
    }
    ended = {
        one.attempt.id
        for one in records
        if isinstance(one, AttemptRecord) and one.attempt.finished_at is not None
    }
    return await real.load(
        [
            one
            for one in records
            if not isinstance(one, AttemptRecord)
            or one.attempt.rollout_id not in open_
            or one.attempt.id not in ended
        ]
    )


async def _takes_open_attempts_for_successful(real: Any, records: Any) -> Any:
    over = {
        one.rollout.id
        for one in records
        if isinstance(one, RolloutRecord) and one.rollout.finished_at is not None
    }
    return await real.load(
        [
            AttemptRecord(attempt=msgspec.structs.replace(one.attempt, status=AttemptStatus.SUCCEEDED))
            if isinstance(one, AttemptRecord)
            and one.attempt.rollout_id in over
            and one.attempt.finished_at is None
            else one
            for one in records
        ]
    )


async def _lets_loaded_attempts_live_on(real: Any, records: Any) -> Any:
    return await real.load(
        [
            AttemptRecord(attempt=msgspec.structs.replace(one.attempt, expires_at=1e12))
            if isinstance(one, AttemptRecord) and one.attempt.finished_at is None
            else one
            for one in records
        ]
    )


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
    "serves three who wait": (
        {"rollouts.lease": _serves_three_waiting_workers},
        "test_each_waiting_worker_gets_one_of_the_rollouts_that_come",
    ),
    "summarises attempts that were tried again": (
        {"spans.summarise": _summarises_all_attempts},
        "test_summaries_leave_out_attempts_that_were_tried_again",
    ),
    "trims what a run needs": (
        {"store.trim": _ends_all_runs_before_it_trims},
        "test_trim_spares_what_is_open_and_what_an_unfinished_run_needs",
    ),
    "trims twice": (
        {"store.trim": _trims_more_when_it_is_busy},
        "test_two_who_trim_at_once_trim_once",
    ),
    "counts completions anew": (
        {"rollouts.completions": _counts_completions_that_are_left},
        "test_completions_go_on_after_a_trim",
    ),
    "is silent about trimmed rollouts": (
        {"rollouts.enqueue": swallowing("enqueue", NotFound, "trimmed", answer=[])},
        "test_a_key_whose_rollouts_were_trimmed_says_so",
    ),
    "fails where leases were trimmed": (
        {"rollouts.lease": _asks_for_the_rollouts_of_a_repeated_lease},
        "test_a_key_whose_leases_were_trimmed_takes_no_others",
    ),
    "refuses a repeated key when it is full": (
        {"rollouts.enqueue": _checks_the_queue_before_the_key},
        "test_a_full_queue_answers_a_repeated_key",
    ),
    "forgets that its queue is full": (
        {"rollouts.enqueue": swallowing("enqueue", LimitExceeded, "the queue has", answer=[])},
        "test_the_queue_takes_no_more_than_its_limit",
    ),
    "takes large outputs": (
        {"rollouts.finish": swallowing("finish", LimitExceeded, "output")},
        "test_large_tasks_and_calls_are_refused",
    ),
    "hides markers": (
        {"spans.page": _hides_markers},
        "test_an_attempt_takes_no_more_spans_than_its_limit_and_says_so_once",
    ),
    "drops what is too much": (
        {"spans.append": swallowing("append", LimitExceeded, "may have 5000", answer=AppendResult(stored=0))},
        "test_the_bytes_of_an_attempt_are_limited",
    ),
    "loads half a batch": (
        {"store.load": _loads_what_comes_before_a_conflict},
        "test_a_batch_with_a_conflict_adds_nothing",
    ),
    "skips other spans": (
        {"store.load": swallowing("load", Conflict, "span of attempt")},
        "test_another_span_under_a_loaded_id_is_a_conflict",
    ),
    "takes late spans for timely": (
        {"store.load": _forgets_what_was_late},
        "test_loaded_records_read_as_they_were",
    ),
    "loads past a gap": (
        {"store.load": swallowing("load", ValueError, "missing")},
        "test_a_gap_in_loaded_spans_is_refused",
    ),
    "leaves loaded rollouts running": (
        {"store.load": _leaves_attempts_of_running_rollouts_out},
        "test_an_attempt_that_ended_while_it_was_exported_ends_its_rollout",
    ),
    "takes lost attempts for successful": (
        {"store.load": _takes_open_attempts_for_successful},
        "test_an_open_attempt_of_a_rollout_that_went_on_is_lost",
    ),
    "never ends loaded attempts": (
        {"store.load": _lets_loaded_attempts_live_on},
        "test_an_open_attempt_that_is_loaded_ends_with_its_lease",
    ),
    "takes attempts that never were": (
        {"store.load": swallowing("load", ValueError, "sequence 2 of 1")},
        "test_an_attempt_that_its_rollout_never_had_is_refused",
    ),
    "skips orphans": (
        {"store.load": _skips_orphans},
        "test_a_record_without_what_it_belongs_to_is_refused",
    ),
}
"""Faults by name, each with the one contract test that fails."""


async def test_a_store_without_faults_passes() -> None:
    assert [name for name in sorted(contract_tests()) if not await passes(name, {})] == []
    assert len(contract_tests()) > 130


def test_every_contract_test_has_a_store_that_fails_it() -> None:
    expected = {name for _, name in BROKEN.values()}
    for other in ("test_broken_queues", "test_broken_logs"):
        broken = runpy.run_path(str(Path(__file__).with_name(f"{other}.py")))["BROKEN"]
        expected |= {name for _, name in broken.values()}
    assert contract_tests() - expected == set()


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_store_fails_exactly_one_contract_test(
    fault: str, contract_calls: dict[str, set[str]]
) -> None:
    faults, expected = BROKEN[fault]
    assert await failures(faults, calls=contract_calls) == [expected]
