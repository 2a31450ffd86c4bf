"""The store's contract: the whole of it, what is counted, limited and trimmed."""
# ruff: noqa: S101 - the names of tests say it, and tests assert

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentlightning import semconv
from agentlightning.errors import LimitExceeded, NotFound, StoreUnavailable
from agentlightning.store import (
    Limits,
    Retention,
    RewardKey,
    RolloutQuery,
    SpanQuery,
    Store,
)
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.testing._store_case import (
    StoreCase,
    finished,
    leased,
    requests,
    retrying,
    reward,
    span,
)
from agentlightning.testing._store_run_contract import job
from agentlightning.types import (
    FailureClass,
    PromptTemplate,
    RolloutRequest,
    RolloutStatus,
    RunStatus,
    SpanSource,
)


class WholeContract(StoreCase):
    """Opening and closing, and what is about all that a store keeps."""

    async def test_a_store_that_is_not_open_says_so(self, tmp_path: Path, clock: ManualClock) -> None:
        store = self.make_store(tmp_path, clock=clock)
        with pytest.raises(StoreUnavailable, match="async with"):
            await store.rollouts.list()

    async def test_a_store_entered_twice_stays_open_until_the_last_exit(self, store: Store) -> None:
        async with store:
            await store.rollouts.enqueue(requests(1))
        assert len((await store.rollouts.list()).items) == 1

    async def test_statistics_count_everything(self, store: Store, clock: ManualClock) -> None:
        lease = await finished(store)
        await leased(store)
        clock.advance(5.0)
        (queued,) = await store.rollouts.enqueue(requests(1))
        await store.spans.append([span(lease, 1)])
        await store.runs.create(job("r"))
        await store.resources.publish({"p": PromptTemplate(template="hi")})
        found = await store.statistics()
        assert {status: count for status, count in found.rollouts.items() if count} == {
            RolloutStatus.SUCCEEDED: 1,
            RolloutStatus.RUNNING: 1,
            RolloutStatus.QUEUED: 1,
        }
        assert (found.attempts, found.spans, found.runs, found.resource_sets) == (2, 1, 1, 1)
        assert found.span_bytes > 100
        assert found.oldest_queued_at == queued.created_at

    async def test_rewards_are_summarised_by_key_and_dimension(self, store: Store) -> None:
        for group, values in (("a", (1.0, 3.0)), ("b", (5.0,))):
            for value in values:
                lease = await leased(store, request=RolloutRequest(task=0, group=group))
                await store.spans.append(
                    [reward(lease, 1, value=value), reward(lease, 2, value=0.5, dimension="brief")]
                )
                await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        by_group = await store.spans.summarise(by=RewardKey.GROUP)
        assert [(one.key, one.dimension, one.count, one.mean) for one in by_group] == [
            ("a", "brief", 2, 0.5),
            ("a", "reward", 2, 2.0),
            ("b", "brief", 1, 0.5),
            ("b", "reward", 1, 5.0),
        ]
        assert (by_group[1].std, by_group[1].low, by_group[1].high) == (1.0, 1.0, 3.0)
        (brief, overall) = await store.spans.summarise(RolloutQuery(group="a"))
        assert (brief.key, overall.mean, overall.count) == (None, 2.0, 2)

    async def test_summaries_leave_out_attempts_that_were_tried_again(
        self, store: Store, clock: ManualClock
    ) -> None:
        first = await leased(
            store, ttl_s=1.0, request=RolloutRequest(task=0, config=retrying(FailureClass.LOST))
        )
        await store.spans.append([reward(first, 1, value=0.0)])
        clock.advance(2.0)
        (second,) = await store.rollouts.lease("other")
        await store.spans.append([reward(second, 1, value=1.0)])
        await store.rollouts.finish(second.attempt.id, token=second.attempt.token)
        (only,) = await store.spans.summarise()
        assert (only.count, only.mean) == (1, 1.0)

    async def test_trim_deletes_the_oldest_terminal_rollouts_with_all_that_is_theirs(
        self, store: Store
    ) -> None:
        leases = [await finished(store) for _ in range(4)]
        await store.spans.append([span(lease, 1) for lease in leases])
        trimmed = await store.trim(Retention(max_rollouts=2))
        assert (trimmed.rollouts, trimmed.spans) == (2, 2)
        left = (await store.rollouts.list()).items
        assert [rollout.id for rollout in left] == [lease.rollout.id for lease in leases[2:]]
        for lease in leases[:2]:
            with pytest.raises(NotFound):
                await store.rollouts.get(lease.rollout.id)
        assert await store.spans.count(SpanQuery(include_late=True)) == 2
        assert (await store.trim(Retention(max_rollouts=2))).rollouts == 0

    async def test_trim_by_age_and_by_size(self, store: Store, clock: ManualClock) -> None:
        old = await finished(store)
        clock.advance(100.0)
        leases = [await finished(store) for _ in range(3)]
        assert (await store.trim(Retention(max_age_s=50.0))).rollouts == 1
        with pytest.raises(NotFound):
            await store.rollouts.get(old.rollout.id)
        await store.spans.append([span(lease, 1, text="x" * 1000) for lease in leases])
        size_bytes = (await store.statistics()).span_bytes
        assert (await store.trim(Retention(max_bytes=size_bytes - 1))).rollouts == 1
        assert (await store.statistics()).span_bytes < size_bytes

    async def test_trim_spares_what_is_open_and_what_an_unfinished_run_needs(self, store: Store) -> None:
        await store.runs.create(job("going"))
        await store.runs.create(job("over"))
        await store.runs.update("over", status=RunStatus.SUCCEEDED)
        kept = await finished(store, request=RolloutRequest(task=0, run_id="going"))
        gone = await finished(store, request=RolloutRequest(task=0, run_id="over"))
        newest = await finished(store)
        running = await leased(store)
        (queued,) = await store.rollouts.enqueue(requests(1))
        await store.trim(Retention(max_rollouts=0))
        left = {rollout.id for rollout in (await store.rollouts.list()).items}
        assert left == {kept.rollout.id, running.rollout.id, queued.id, newest.rollout.id}
        assert gone.rollout.id not in left

    async def test_completions_go_on_after_a_trim(self, store: Store) -> None:
        for _ in range(3):
            await finished(store)
        cursor = (await store.rollouts.completions())[-1].cursor
        await store.trim(Retention(max_rollouts=0))
        lease = await finished(store)
        (completion,) = await store.rollouts.completions(after=cursor)
        assert (completion.cursor, completion.rollout.id) == (cursor + 1, lease.rollout.id)

    async def test_two_who_trim_at_once_trim_once(self, store: Store) -> None:
        for _ in range(12):
            await finished(store)
        trimmed = await asyncio.gather(*(store.trim(Retention(max_rollouts=5)) for _ in range(2)))
        assert sum(one.rollouts for one in trimmed) == 7
        assert len((await store.rollouts.list()).items) == 5

    async def test_a_key_whose_rollouts_were_trimmed_says_so(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(1), idempotency_key="k")
        (lease,) = await store.rollouts.lease("worker")
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        await finished(store)
        await store.trim(Retention(max_rollouts=1))
        with pytest.raises(NotFound, match="trimmed"):
            await store.rollouts.enqueue(requests(1), idempotency_key="k")

    async def test_a_key_whose_leases_were_trimmed_takes_no_others(self, store: Store) -> None:
        await store.rollouts.enqueue(requests(1))
        (lease,) = await store.rollouts.lease("worker", idempotency_key="k")
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        await finished(store)
        await store.trim(Retention(max_rollouts=1))
        await store.rollouts.enqueue(requests(1))
        assert await store.rollouts.lease("worker", idempotency_key="k") == []
        assert len(await store.rollouts.lease("worker", idempotency_key="other")) == 1

    async def test_a_retention_that_says_nothing_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="limits nothing"):
            await store.trim(Retention())
        with pytest.raises(ValueError, match="max_rollouts"):
            await store.trim(Retention(max_rollouts=-1))

    async def test_an_attempt_takes_no_more_spans_than_its_limit_and_says_so_once(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        limits = Limits(attempt_spans=3)
        async with self.make_limited_store(tmp_path, clock=clock, limits=limits) as store:
            lease, other = await leased(store), await leased(store)
            await store.spans.append([span(lease, number) for number in range(3)])
            for number in (10, 11):
                with pytest.raises(LimitExceeded, match="3"):
                    await store.spans.append([span(lease, number), span(other, number)])
            spans = (await store.spans.page(SpanQuery(attempt_ids=(lease.attempt.id,)))).items
            assert [one.operation for one in spans] == ["chat"] * 3 + [semconv.OPERATION_TRUNCATED]
            assert (spans[-1].source, spans[-1].sequence) == (SpanSource.STORE, 4)
            assert await store.spans.count(SpanQuery(attempt_ids=(other.attempt.id,))) == 2

    async def test_the_bytes_of_an_attempt_are_limited(self, tmp_path: Path, clock: ManualClock) -> None:
        limits = Limits(attempt_bytes=5_000)
        async with self.make_limited_store(tmp_path, clock=clock, limits=limits) as store:
            lease = await leased(store)
            await store.spans.append([span(lease, 1, text="x" * 4000)])
            with pytest.raises(LimitExceeded, match="5000"):
                await store.spans.append([span(lease, 2, text="x" * 4000)])

    async def test_the_queue_takes_no_more_than_its_limit(self, tmp_path: Path, clock: ManualClock) -> None:
        async with self.make_limited_store(tmp_path, clock=clock, limits=Limits(queued=2)) as store:
            await store.rollouts.enqueue(requests(2))
            with pytest.raises(LimitExceeded, match="2"):
                await store.rollouts.enqueue(requests(1))
            await store.rollouts.lease("worker", limit=2)
            await store.rollouts.enqueue(requests(2))

    async def test_a_full_queue_answers_a_repeated_key(self, tmp_path: Path, clock: ManualClock) -> None:
        async with self.make_limited_store(tmp_path, clock=clock, limits=Limits(queued=2)) as store:
            first = await store.rollouts.enqueue(requests(2), idempotency_key="full")
            assert await store.rollouts.enqueue(requests(2), idempotency_key="full") == first

    async def test_large_tasks_and_calls_are_refused(self, tmp_path: Path, clock: ManualClock) -> None:
        limits = Limits(task_bytes=1000, batch=2)
        async with self.make_limited_store(tmp_path, clock=clock, limits=limits) as store:
            with pytest.raises(LimitExceeded, match="1000"):
                await store.rollouts.enqueue([RolloutRequest(task="x" * 2000)])
            with pytest.raises(LimitExceeded, match="2"):
                await store.rollouts.enqueue(requests(3))
            lease = await leased(store)
            with pytest.raises(LimitExceeded, match="1000"):
                await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output="x" * 2000)
