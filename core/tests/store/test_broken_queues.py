"""Stores whose queue and lifecycle are broken: each fails exactly the contract test that is about what it breaks."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from agentlightning.errors import Conflict, LeaseLost, NotFound, StoreUnavailable
from agentlightning.store import RolloutQuery
from agentlightning.testing._store_faults import Fault, failures, swallowing
from agentlightning.types import (
    AttemptStatus,
    FailureClass,
    ResourceState,
    RolloutConfig,
    RolloutStatus,
)

ALL = RolloutQuery()
replace = msgspec.structs.replace


async def _adds_what_comes_before_a_taken_id(real: Any, requests: Any, **options: Any) -> Any:
    try:
        return await real.enqueue(requests, **options)
    except Conflict:
        if len({request.id for request in requests}) > 1:
            await real.enqueue(requests[:1])
        raise


async def _forgives_repeated_ids(real: Any, requests: Any, **options: Any) -> Any:
    distinct = {request.id or object(): request for request in requests}
    return await real.enqueue(list(distinct.values()), **options)


async def _answers_a_key_with_what_is_now(real: Any, requests: Any, **options: Any) -> Any:
    return [await real.get(rollout.id) for rollout in await real.enqueue(requests, **options)]


async def _keeps_the_task_s_object(real: Any, requests: Any, **options: Any) -> Any:
    added = await real.enqueue(requests, **options)
    tasks = real.__dict__.setdefault("_tasks", {})
    tasks.update((rollout.id, request.task) for rollout, request in zip(added, requests, strict=True))
    return added


async def _gives_the_task_s_object(real: Any, rollout_id: str) -> Any:
    rollout = await real.get(rollout_id)
    return replace(rollout, task=real.__dict__.get("_tasks", {}).get(rollout_id, rollout.task))


async def _forgets_metadata(real: Any, rollout_id: str) -> Any:
    return replace(await real.get(rollout_id), metadata={})


async def _leases_by_task(real: Any, worker: str, *, limit: int = 1, **options: Any) -> Any:
    found = await real.lease(worker, limit=limit, **options)
    key = (lambda lease: (-lease.rollout.priority, lease.rollout.task)) if limit == 9 else (lambda _: 0)
    return sorted(found, key=key)


async def _knows_no_priority(real: Any, worker: str, *, limit: int = 1, **options: Any) -> Any:
    found = await real.lease(worker, limit=limit, **options)
    order = [rollout.id for rollout in (await real.list(limit=1000)).items]
    return sorted(found, key=lambda lease: order.index(lease.rollout.id) if limit == 9 else 0)


async def _leases_work_of_any_run(
    real: Any, worker: str, *, limit: int = 1, run_id: Any = None, **options: Any
) -> Any:
    return await real.lease(worker, limit=limit, run_id=None if limit == 9 else run_id, **options)


async def _forgets_deadlines(real: Any, worker: str, **options: Any) -> Any:
    return [
        replace(lease, attempt=replace(lease.attempt, deadline_at=None))
        for lease in await real.lease(worker, **options)
    ]


async def _waits_not_at_all(real: Any, worker: str, *, wait_s: float = 0.0, **options: Any) -> Any:
    here = threading.current_thread() is threading.main_thread()
    return await real.lease(worker, wait_s=0.0 if here and worker == "worker" else wait_s, **options)


async def _stays_in_its_thread(real: Any, worker: str, **options: Any) -> Any:
    if threading.current_thread() is not threading.main_thread():
        raise StoreUnavailable("it was opened in another thread")
    return await real.lease(worker, **options)


async def _raises_when_its_time_is_up(real: Any, worker: str, *, wait_s: float = 0.0, **options: Any) -> Any:
    found = await real.lease(worker, wait_s=wait_s, **options)
    if 0.0 < wait_s < 1.0 and not found:
        raise TimeoutError
    return found


async def _overlooks_retries_while_it_waits(
    real: Any, worker: str, *, wait_s: float = 0.0, **options: Any
) -> Any:
    found = await real.lease(worker, wait_s=wait_s, **options)
    return [lease for lease in found if not wait_s or lease.attempt.sequence == 1]


async def _takes_others_under_a_used_key(
    real: Any, worker: str, *, idempotency_key: Any = None, **options: Any
) -> Any:
    found = await real.lease(worker, idempotency_key=idempotency_key, **options)
    taken = real.__dict__.setdefault("_taken", {})
    before = taken.get(idempotency_key, ())
    if before and not found and await real.attempts(before):
        return await real.lease(worker, **options)
    if idempotency_key is not None:
        taken.setdefault(idempotency_key, [lease.rollout.id for lease in found])
    return found


async def _shares_a_rollout(real: Any, worker: str, *, limit: int = 1, **options: Any) -> Any:
    found = await real.lease(worker, limit=limit, **options)
    if limit != 2 or options or not found:
        return found
    first = real.__dict__.setdefault("_shared", found[0])
    return found if first is found[0] or not worker.startswith("worker ") else [*found, first]


async def _retries_last(real: Any, worker: str, **options: Any) -> Any:
    found = await real.lease(worker, **options)
    if len(found) == 1 and found[0].attempt.sequence > 1:
        return await real.lease(worker, **options | {"wait_s": 0.0}) or found
    return found


async def _abandons_lost_work(real: Any, worker: str, **options: Any) -> Any:
    found = await real.lease(worker, **options)
    return [
        lease
        for lease in found
        if worker != "other" or lease.attempt.sequence == 1 or lease.rollout.config != RolloutConfig()
    ]


async def _retries_on_the_old_set(real: Any, worker: str, **options: Any) -> Any:
    sets = real.__dict__.setdefault("_sets", {})
    return [
        replace(lease, rollout=replace(lease.rollout, resources=first))
        for lease in await real.lease(worker, **options)
        for first in [sets.setdefault(lease.rollout.id, lease.rollout.resources)]
    ]


async def _notes_what_is_live(real: Any, requests: Any, **options: Any) -> Any:
    added = await real.enqueue(requests, **options)
    live = await real.store.resources.live()
    noted = real.__dict__.setdefault("_live", {})
    noted.update((rollout.id, live) for rollout in added)
    return added


async def _pins_what_was_live(real: Any, worker: str, **options: Any) -> Any:
    live = await real.store.resources.live()
    found = []
    for lease in await real.lease(worker, **options):
        noted = real.__dict__.get("_live", {}).get(lease.rollout.id)
        old = noted and live and lease.attempt.sequence == 1 and lease.rollout.resources == live.id
        found.append(replace(lease, rollout=replace(lease.rollout, resources=noted.id)) if old else lease)
    return found


def _prefers_live_to(state: ResourceState) -> Fault:
    async def lease(real: Any, worker: str, **options: Any) -> Any:
        resources = real.store.resources
        live = await resources.live()
        found = []
        for one in await real.lease(worker, **options):
            chosen = one.rollout.resources
            wrong = live and chosen and (await resources.get(chosen)).state is state
            found.append(replace(one, rollout=replace(one.rollout, resources=live.id)) if wrong else one)
        return found

    return lease


async def _repeats_the_end_of_a_page(
    real: Any, query: Any = ALL, *, limit: int = 100, cursor: Any = None
) -> Any:
    more = 1 if cursor and not query.newest_first else 0
    return await real.list(query, limit=limit + more, cursor=cursor)


def _does_not_wait_for(count: int) -> Fault:
    async def wait(real: Any, ids: Any = None, *, timeout_s: Any = None, **options: Any) -> Any:
        impatient = timeout_s is None and ids is not None and len(ids) == count
        return await real.wait(ids, timeout_s=0.0 if impatient else timeout_s, **options)

    return wait


async def _completes_backwards(real: Any, *, limit: int = 100, **options: Any) -> Any:
    found = await real.completions(limit=limit, **options)
    return found[::-1] if limit == 2 else found


async def _never_waits_for_completions(real: Any, *, wait_s: float = 0.0, **options: Any) -> Any:
    del wait_s
    return await real.completions(**options)


async def _shows_running_attempts_as_leased(real: Any, ids: Any) -> Any:
    return [
        replace(one, status=AttemptStatus.LEASED) if one.status is AttemptStatus.RUNNING else one
        for one in await real.attempts(ids)
    ]


async def _forgets_outputs_of_attempts(real: Any, ids: Any) -> Any:
    found = await real.attempts(ids)
    return [replace(one, output=None) if one.output == {"answer": [4]} else one for one in found]


async def _takes_lost_for_timed_out(real: Any, ids: Any) -> Any:
    return [
        replace(one, status=AttemptStatus.TIMED_OUT)
        if one.status is AttemptStatus.LOST and one.deadline_at is not None
        else one
        for one in await real.attempts(ids)
    ]


async def _takes_lost_for_broken(real: Any, rollout_id: str) -> Any:
    found = await real.get(rollout_id)
    if found.failure is None or found.failure.kind is not FailureClass.LOST:
        return found
    return replace(found, failure=replace(found.failure, kind=FailureClass.INFRASTRUCTURE))


async def _fails_after_a_timeout_only(real: Any, attempt_id: str, **options: Any) -> Any:
    found = await real.finish(attempt_id, **options)
    timed_out = found.failure is not None and found.failure.kind is FailureClass.TIMED_OUT
    return replace(found, status=RolloutStatus.CANCELLED) if timed_out else found


async def _forgets_the_last_failure(real: Any, attempt_id: str, **options: Any) -> Any:
    found = await real.finish(attempt_id, **options)
    last = found.status is RolloutStatus.FAILED and found.attempts == found.config.max_attempts == 2
    return (
        replace(found, failure=None) if last and options.get("output") is None and found.task == 0 else found
    )


async def _notes_when_leases_end(real: Any, worker: str, **options: Any) -> Any:
    found = await real.lease(worker, **options)
    ends = real.__dict__.setdefault("_ends", {})
    ends.update((lease.attempt.id, lease.attempt.expires_at) for lease in found)
    return found


async def _shortens_no_lease(real: Any, attempt_id: str, **options: Any) -> Any:
    beat = await real.heartbeat(attempt_id, **options)
    return replace(beat, expires_at=max(beat.expires_at, real.__dict__["_ends"][attempt_id]))


async def _always_sweeps(real: Any) -> Any:
    return max(await real.sweep(), 1)


async def _forgets_why(real: Any, ids: Any, *, reason: str = "") -> Any:
    del reason
    return await real.cancel(ids)


async def _cancels_what_is_over(real: Any, ids: Any, **options: Any) -> Any:
    return [
        replace(one, status=RolloutStatus.CANCELLED) if one.status is RolloutStatus.SUCCEEDED else one
        for one in await real.cancel(ids, **options)
    ]


async def _closes_at_once(real: Any) -> Any:
    await real.__aexit__()
    await real.__aexit__()


BROKEN: dict[str, tuple[dict[str, Fault], str]] = {
    "adds half a call": (
        {"rollouts.enqueue": _adds_what_comes_before_a_taken_id},
        "test_a_taken_id_is_refused_and_nothing_is_added",
    ),
    "forgives repeated ids": (
        {"rollouts.enqueue": _forgives_repeated_ids},
        "test_one_id_twice_in_a_request_is_refused",
    ),
    "answers a key with what is now": (
        {"rollouts.enqueue": _answers_a_key_with_what_is_now},
        "test_a_repeated_key_gives_the_first_result_and_adds_nothing",
    ),
    "keeps the task's object": (
        {"rollouts.enqueue": _keeps_the_task_s_object, "rollouts.get": _gives_the_task_s_object},
        "test_a_task_does_not_change_with_the_object_it_was_made_from",
    ),
    "takes tasks that are no numbers": (
        {"rollouts.enqueue": swallowing("enqueue", ValueError, "nan", answer=[])},
        "test_a_task_that_is_not_a_number_is_refused",
    ),
    "forgets metadata": (
        {"rollouts.get": _forgets_metadata},
        "test_enqueued_rollouts_are_queued_in_order_with_all_their_fields",
    ),
    "leases by task": ({"rollouts.lease": _leases_by_task}, "test_leases_are_first_in_first_out"),
    "knows no priority": ({"rollouts.lease": _knows_no_priority}, "test_a_higher_priority_is_leased_first"),
    "leases work of any run": (
        {"rollouts.lease": _leases_work_of_any_run},
        "test_a_lease_of_a_run_leaves_others_alone",
    ),
    "forgets deadlines": (
        {"rollouts.lease": _forgets_deadlines},
        "test_a_lease_hands_out_a_running_rollout_and_its_first_attempt",
    ),
    "does not wait for work": (
        {"rollouts.lease": _waits_not_at_all},
        "test_a_waiting_lease_is_woken_by_work",
    ),
    "stays in its thread": (
        {"rollouts.lease": _stays_in_its_thread},
        "test_a_worker_in_another_thread_and_loop_is_woken",
    ),
    "raises when its time is up": (
        {"rollouts.lease": _raises_when_its_time_is_up},
        "test_a_waiting_lease_gives_up_when_its_time_is_up",
    ),
    "overlooks retries while it waits": (
        {"rollouts.lease": _overlooks_retries_while_it_waits},
        "test_a_waiting_worker_gets_the_work_of_a_dead_one",
    ),
    "takes others under a used key": (
        {"rollouts.lease": _takes_others_under_a_used_key},
        "test_a_lease_delivered_late_takes_nothing_once_its_key_gave_leases",
    ),
    "shares a rollout": ({"rollouts.lease": _shares_a_rollout}, "test_many_workers_never_share_a_rollout"),
    "retries last": (
        {"rollouts.lease": _retries_last},
        "test_a_failure_named_by_retry_on_is_tried_again_in_its_place",
    ),
    "abandons lost work": (
        {"rollouts.lease": _abandons_lost_work},
        "test_by_default_lost_work_is_leased_again",
    ),
    "retries on the old set": (
        {"rollouts.lease": _retries_on_the_old_set},
        "test_a_retry_runs_on_the_set_that_is_live_then",
    ),
    "pins when it enqueues": (
        {"rollouts.enqueue": _notes_what_is_live, "rollouts.lease": _pins_what_was_live},
        "test_the_live_set_is_pinned_when_leased_not_when_enqueued",
    ),
    "runs no candidates": (
        {"rollouts.lease": _prefers_live_to(ResourceState.CANDIDATE)},
        "test_a_set_that_the_request_pins_is_kept",
    ),
    "runs no canaries": (
        {"rollouts.lease": _prefers_live_to(ResourceState.CANARY)},
        "test_a_canary_gets_its_share_and_groups_stay_together",
    ),
    "finds every rollout": (
        {"rollouts.get": swallowing("get", NotFound, "nowhere")},
        "test_an_unknown_rollout_is_not_found",
    ),
    "makes longer pages": (
        {"rollouts.list": _repeats_the_end_of_a_page},
        "test_listings_come_in_pages_in_order_of_creation",
    ),
    "does not wait for two": ({"rollouts.wait": _does_not_wait_for(2)}, "test_wait_is_woken_by_the_last_one"),
    "does not wait for one": (
        {"rollouts.wait": _does_not_wait_for(1)},
        "test_an_idle_store_ends_overdue_work_by_itself",
    ),
    "waits for what it does not know": (
        {"rollouts.wait": swallowing("wait", NotFound, "nowhere", answer=[])},
        "test_waiting_for_an_unknown_rollout_is_refused",
    ),
    "completes backwards": (
        {"rollouts.completions": _completes_backwards},
        "test_completions_come_in_the_order_in_which_rollouts_ended",
    ),
    "never waits for completions": (
        {"rollouts.completions": _never_waits_for_completions},
        "test_waiting_for_completions_is_woken",
    ),
    "shows running attempts as leased": (
        {"rollouts.attempts": _shows_running_attempts_as_leased},
        "test_a_heartbeat_extends_the_lease_and_moves_the_attempt_to_running",
    ),
    "takes heartbeats of what has ended": (
        {"rollouts.heartbeat": swallowing("heartbeat", LeaseLost, "succeeded")},
        "test_a_heartbeat_of_an_ended_attempt_is_refused",
    ),
    "takes heartbeats of what it does not know": (
        {"rollouts.heartbeat": swallowing("heartbeat", NotFound, "nowhere")},
        "test_unknown_attempts_are_not_found",
    ),
    "takes any token": (
        {"rollouts.heartbeat": swallowing("heartbeat", LeaseLost, "token")},
        "test_a_wrong_token_is_refused_and_changes_nothing",
    ),
    "shortens no lease": (
        {"rollouts.lease": _notes_when_leases_end, "rollouts.heartbeat": _shortens_no_lease},
        "test_a_clock_set_back_keeps_the_lease_and_a_heartbeat_corrects_it",
    ),
    "forgets outputs of attempts": (
        {"rollouts.attempts": _forgets_outputs_of_attempts},
        "test_finish_without_failure_succeeds_with_the_output",
    ),
    "cancels what timed out": (
        {"rollouts.finish": _fails_after_a_timeout_only},
        "test_a_failure_ends_the_attempt_by_its_kind",
    ),
    "forgets the last failure": (
        {"rollouts.finish": _forgets_the_last_failure},
        "test_a_rollout_fails_when_no_attempt_is_left",
    ),
    "takes another end": (
        {"rollouts.finish": swallowing("finish", LeaseLost, "is succeeded")},
        "test_another_finish_of_an_ended_attempt_is_refused",
    ),
    "takes the end of what was cancelled": (
        {"rollouts.finish": swallowing("finish", LeaseLost, "is cancelled")},
        "test_a_cancelled_attempt_never_succeeds",
    ),
    "takes the end of what timed out": (
        {"rollouts.finish": swallowing("finish", LeaseLost, "is timed_out")},
        "test_an_attempt_past_its_timeout_is_timed_out_despite_heartbeats",
    ),
    "takes the end of what was lost": (
        {"rollouts.finish": swallowing("finish", LeaseLost, "is lost")},
        "test_a_lost_attempt_is_tried_again_and_the_zombie_is_refused",
    ),
    "takes lost for broken": (
        {"rollouts.get": _takes_lost_for_broken},
        "test_an_attempt_without_heartbeats_is_lost",
    ),
    "takes lost for timed out": (
        {"rollouts.attempts": _takes_lost_for_timed_out},
        "test_what_ran_out_first_decides_however_late_somebody_looks",
    ),
    "always sweeps": ({"store.sweep": _always_sweeps}, "test_sweep_ends_what_is_overdue"),
    "forgets why": ({"rollouts.cancel": _forgets_why}, "test_cancel_takes_queued_work_out_of_the_queue"),
    "cancels what is over": (
        {"rollouts.cancel": _cancels_what_is_over},
        "test_cancel_leaves_terminal_rollouts_as_they_are",
    ),
    "closes at once": (
        {"store.close": _closes_at_once},
        "test_a_store_entered_twice_stays_open_until_the_last_exit",
    ),
    "is never closed": (
        {"rollouts.list": swallowing("list", StoreUnavailable, "async with")},
        "test_a_store_that_is_not_open_says_so",
    ),
}
"""Faults by name, each with the one contract test that fails."""


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_queue_fails_exactly_one_contract_test(
    fault: str, contract_calls: dict[str, set[str]]
) -> None:
    faults, expected = BROKEN[fault]
    assert await failures(faults, calls=contract_calls) == [expected]
