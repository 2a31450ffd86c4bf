"""Stores whose log, sets or runs are broken: each fails exactly the contract test that is about what it breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from agentlightning.errors import (
    Conflict,
    IllegalTransition,
    InvalidReward,
    LeaseLost,
    LimitExceeded,
    NotFound,
)
from agentlightning.store import AppendResult, Page, SpanQuery
from agentlightning.testing._store_faults import Fault, failures, swallowing
from agentlightning.types import ResourceState, RolloutStatus, RunStatus, reward_of

NOTHING = AppendResult(stored=0)
replace = msgspec.structs.replace


async def _orders_by_time(real: Any, query: Any, **options: Any) -> Any:
    page = await real.page(query, **options)
    attempts = list(dict.fromkeys(one.attempt_id for one in page.items))
    key = lambda one: (attempts.index(one.attempt_id), one.start_ns)  # noqa: E731
    return replace(page, items=tuple(sorted(page.items, key=key))) if len(attempts) == 2 else page


async def _forgets_parents(real: Any, query: Any, **options: Any) -> Any:
    page = await real.page(query, **options)
    return replace(page, items=tuple(replace(one, parent_id=None) for one in page.items))


async def _ends_at_the_second_page(real: Any, query: Any, *, cursor: Any = None, **options: Any) -> Any:
    page = await real.page(query, cursor=cursor, **options)
    return page if cursor is None or options.get("limit") != 4 else replace(page, cursor=None)


async def _knows_no_agents(real: Any, query: Any, **options: Any) -> Any:
    return await real.page(replace(query, agent=None), **options)


async def _fills_its_pages(real: Any, query: Any, *, cursor: Any = None, **options: Any) -> Any:
    page = await real.page(query, cursor=cursor, **options)
    items = list(page.items)
    while page.cursor and len(items) > 20 and "limit" not in options:
        page = await real.page(query, cursor=page.cursor, **options)
        items += page.items
    return replace(page, items=tuple(items))


async def _leaves_out_what_is_too_large_for_a_page(real: Any, query: Any, **options: Any) -> Any:
    page = await real.page(query, **options)
    return Page(items=(), cursor=page.cursor) if len(page.items) == 1 and page.cursor else page


async def _counts_no_second_duplicate(real: Any, spans: Any, **options: Any) -> Any:
    result = await real.append(spans, **options)
    return replace(result, duplicates=min(result.duplicates, 1))


async def _loses_spans_when_it_is_busy(real: Any, spans: Any, **options: Any) -> Any:
    real.__dict__["_busy"] = real.__dict__.get("_busy", 0) + 1
    await asyncio.sleep(0)
    busy = real.__dict__["_busy"] > 1
    try:
        return await real.append(spans[:1] if busy else spans, **options)
    finally:
        real.__dict__["_busy"] -= 1


def _is_late_for_nobody(*, successor: bool) -> Fault:
    async def append(real: Any, spans: Any, *, token: Any = None) -> Any:
        result = await real.append(spans, token=token)
        if token is None:
            return result
        newer = int(spans[0].attempt_id.rpartition(".")[2]) > token
        return replace(result, late=0) if newer is successor else result

    return append


async def _forgets_dimensions(real: Any, ids: Any) -> Any:
    return [one for one in await real.rewards(ids) if one.dimension != "brief"]


async def _rewards_no_failure(real: Any, ids: Any) -> Any:
    rollouts = real.store.rollouts
    failed = {one.id for one in (await rollouts.list(limit=1000)).items if one.status is RolloutStatus.FAILED}
    return [one for one in await real.rewards(ids) if one.rollout_id not in failed]


async def _counts_late_rewards(real: Any, ids: Any) -> Any:
    spans = (await real.page(SpanQuery(rollout_ids=tuple(ids), include_late=True))).items
    return [*(await real.rewards(ids)), *(found for one in spans if one.late and (found := reward_of(one)))]


async def _has_nothing_live(real: Any) -> Any:
    await real.live()


async def _forgets_steps(real: Any, set_id: str) -> Any:
    return replace(await real.get(set_id), step=None)


async def _shows_promoted_sets_as_candidates(real: Any, set_id: str, state: Any, **options: Any) -> Any:
    found = await real.move(set_id, state, **options)
    return replace(found, state=ResourceState.CANDIDATE) if state is ResourceState.LIVE else found


async def _leaves_retired_sets_their_weight(real: Any, set_id: str, state: Any, **options: Any) -> Any:
    found = await real.move(set_id, state, **options)
    return replace(found, weight=0.5) if state is ResourceState.RETIRED else found


async def _lists_sets_of_all_runs(real: Any, *, run_id: Any = None, **options: Any) -> Any:
    del run_id
    return await real.list(**options)


async def _forgets_configs(real: Any, run_id: str) -> Any:
    return replace(await real.get(run_id), config={})


async def _lists_the_oldest_runs_first(real: Any, *, limit: int = 100) -> Any:
    return (await real.list(limit=1000))[::-1][:limit]


async def _notes_heartbeats(real: Any, run_id: str, **options: Any) -> Any:
    real.__dict__.setdefault("_beaten", set()).add(run_id)
    return await real.heartbeat(run_id, **options)


async def _trusts_who_never_came(real: Any, run_id: str) -> Any:
    run = await real.get(run_id)
    came = run_id in real.__dict__.get("_beaten", ())
    return run if came or run.status is not RunStatus.INTERRUPTED else replace(run, status=RunStatus.RUNNING)


async def _lists_interrupted_runs_as_running(real: Any, **options: Any) -> Any:
    return [
        replace(run, status=RunStatus.RUNNING) if run.status is RunStatus.INTERRUPTED else run
        for run in await real.list(**options)
    ]


async def _asks_nobody_to_stop(real: Any, run_id: str, **options: Any) -> Any:
    await real.heartbeat(run_id, **options)
    return False


async def _leaves_ended_runs_their_owner(real: Any, run_id: str, **options: Any) -> Any:
    run = await real.update(run_id, **options)
    return replace(run, owner="host:1") if options.get("error") and not options.get("summary") else run


async def _runs_on_after_the_end(real: Any, run_id: str, **options: Any) -> Any:
    try:
        return await real.update(run_id, **options)
    except IllegalTransition:
        if options.get("status") is not RunStatus.RUNNING:
            raise
        return await real.get(run_id)


async def _ends_a_run_once_only(real: Any, run_id: str, **options: Any) -> Any:
    status = options.get("status")
    if status is not None and (await real.get(run_id)).status is status is RunStatus.FAILED:
        raise IllegalTransition(f"run {run_id!r} is {status}, which is final")
    return await real.update(run_id, **options)


async def _shows_the_newest_event_first(real: Any, run_id: str) -> Any:
    found = await real.events(run_id)
    return found[::-1] if all(event.kind == "note" for event in found) else found


BROKEN: dict[str, tuple[dict[str, Fault], str]] = {
    "orders by time": (
        {"spans.page": _orders_by_time},
        "test_spans_are_numbered_without_gaps_in_the_order_they_came",
    ),
    "forgets parents": ({"spans.page": _forgets_parents}, "test_a_span_comes_back_as_it_was"),
    "ends at the second page": ({"spans.page": _ends_at_the_second_page}, "test_spans_come_in_pages"),
    "knows no agents": (
        {"spans.page": _knows_no_agents},
        "test_spans_are_restricted_by_every_field_of_the_query",
    ),
    "fills its pages": ({"spans.page": _fills_its_pages}, "test_a_page_of_large_spans_has_fewer_of_them"),
    "leaves out what is too large for a page": (
        {"spans.page": _leaves_out_what_is_too_large_for_a_page},
        "test_a_page_has_at_least_one_span_however_large",
    ),
    "counts no second duplicate": (
        {"spans.append": _counts_no_second_duplicate},
        "test_a_span_that_is_there_already_is_not_stored_again",
    ),
    "loses spans when it is busy": (
        {"spans.append": _loses_spans_when_it_is_busy},
        "test_concurrent_appends_leave_no_gap",
    ),
    "takes spans after the lease for timely": (
        {"spans.append": _is_late_for_nobody(successor=False)},
        "test_spans_of_an_attempt_past_its_lease_are_late",
    ),
    "takes spans of an older token for timely": (
        {"spans.append": _is_late_for_nobody(successor=True)},
        "test_spans_with_an_older_token_are_late",
    ),
    "drops spans of unknown attempts": (
        {"spans.append": swallowing("append", NotFound, "nowhere", answer=NOTHING)},
        "test_spans_of_an_unknown_attempt_are_refused_with_their_batch",
    ),
    "drops spans of other rollouts": (
        {"spans.append": swallowing("append", NotFound, "which is of", answer=NOTHING)},
        "test_a_span_under_another_rollout_is_refused",
    ),
    "drops impossible rewards": (
        {"spans.append": swallowing("append", InvalidReward, "reward", answer=NOTHING)},
        "test_an_impossible_reward_refuses_its_batch",
    ),
    "drops attributes that are no numbers": (
        {"spans.append": swallowing("append", ValueError, "-inf", answer=NOTHING)},
        "test_an_attribute_that_is_not_a_number_is_refused",
    ),
    "drops large spans": (
        {"spans.append": swallowing("append", LimitExceeded, "takes 16777216", answer=NOTHING)},
        "test_a_span_that_is_too_large_is_refused",
    ),
    "forgets dimensions": (
        {"spans.rewards": _forgets_dimensions},
        "test_rewards_are_those_of_the_attempt_that_succeeded",
    ),
    "rewards no failure": (
        {"spans.rewards": _rewards_no_failure},
        "test_rewards_of_a_failed_rollout_are_those_of_its_newest_attempt",
    ),
    "counts late rewards": ({"spans.rewards": _counts_late_rewards}, "test_late_rewards_do_not_count"),
    "has nothing live": (
        {"resources.live": _has_nothing_live},
        "test_versions_rise_and_the_newest_live_set_is_live",
    ),
    "forgets steps": ({"resources.get": _forgets_steps}, "test_a_set_comes_back_as_it_was_published"),
    "takes any parent": (
        {"resources.publish": swallowing("publish", NotFound, "nowhere")},
        "test_an_unknown_parent_is_not_found",
    ),
    "moves what it does not know": (
        {"resources.move": swallowing("move", NotFound, "nowhere")},
        "test_an_unknown_set_is_not_found",
    ),
    "takes any weight": (
        {"resources.publish": swallowing("publish", ValueError, "share")},
        "test_a_weight_that_is_no_share_is_refused",
    ),
    "shows promoted sets as candidates": (
        {"resources.move": _shows_promoted_sets_as_candidates},
        "test_promotion_retires_what_was_live_and_can_be_rolled_back",
    ),
    "leaves retired sets their weight": (
        {"resources.move": _leaves_retired_sets_their_weight},
        "test_a_canary_keeps_its_weight_until_it_moves_on",
    ),
    "lists sets of all runs": (
        {"resources.list": _lists_sets_of_all_runs},
        "test_sets_are_listed_newest_first_by_run",
    ),
    "forgets configs": ({"runs.get": _forgets_configs}, "test_a_run_comes_back_as_it_was_created"),
    "takes other runs under an id": (
        {"runs.create": swallowing("create", Conflict, "'r'")},
        "test_a_taken_run_id_is_refused",
    ),
    "finds every run": (
        {"runs.get": swallowing("get", NotFound, "nowhere")},
        "test_an_unknown_run_is_not_found",
    ),
    "lists the oldest runs first": (
        {"runs.list": _lists_the_oldest_runs_first},
        "test_runs_are_listed_newest_first",
    ),
    "trusts owners who never came": (
        {"runs.heartbeat": _notes_heartbeats, "runs.get": _trusts_who_never_came},
        "test_a_run_that_never_had_a_heartbeat_is_interrupted_in_the_end",
    ),
    "lists interrupted runs as running": (
        {"runs.list": _lists_interrupted_runs_as_running},
        "test_a_run_whose_owner_is_silent_is_interrupted",
    ),
    "asks nobody to stop": (
        {"runs.heartbeat": _asks_nobody_to_stop},
        "test_a_request_to_stop_reaches_the_owner_but_not_the_next_one",
    ),
    "lets anybody drive": (
        {"runs.update": swallowing("update", LeaseLost, "host:1")},
        "test_only_its_owner_drives_a_run",
    ),
    "lets the old owner drive on": (
        {"runs.heartbeat": swallowing("heartbeat", LeaseLost, "driven by 'host:2'")},
        "test_an_interrupted_run_can_be_taken_over",
    ),
    "leaves ended runs their owner": (
        {"runs.update": _leaves_ended_runs_their_owner},
        "test_an_ending_frees_the_owner",
    ),
    "runs on after the end": ({"runs.update": _runs_on_after_the_end}, "test_success_and_failure_are_final"),
    "ends a run once only": (
        {"runs.update": _ends_a_run_once_only},
        "test_repeating_what_ended_a_run_changes_nothing",
    ),
    "takes metrics that are no numbers": (
        {"runs.log": swallowing("log", ValueError, "loss")},
        "test_a_metric_that_is_not_a_number_is_refused",
    ),
    "shows the newest event first": (
        {"runs.events": _shows_the_newest_event_first},
        "test_events_come_in_order",
    ),
}
"""Faults by name, each with the one contract test that fails."""


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_log_fails_exactly_one_contract_test(
    fault: str, contract_calls: dict[str, set[str]]
) -> None:
    faults, expected = BROKEN[fault]
    assert await failures(faults, calls=contract_calls) == [expected]
