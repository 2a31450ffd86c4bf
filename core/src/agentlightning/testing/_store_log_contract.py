"""The store's contract: spans, rewards and resource sets."""
# ruff: noqa: S101 - the names of tests say it, and tests assert

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import msgspec
import pytest

from agentlightning import semconv
from agentlightning.errors import Conflict, InvalidReward, LimitExceeded, NotFound
from agentlightning.store import AppendResult, Limits, SpanQuery, Store
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.testing._store_case import StoreCase, failure, leased, retrying, reward, span
from agentlightning.types import (
    FailureClass,
    PromptTemplate,
    Resource,
    ResourceRecord,
    ResourceState,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
    TokenRecord,
    Weights,
)


class SpanContract(StoreCase):
    """Spans are kept once, in order, exactly; late ones aside."""

    async def test_spans_are_numbered_without_gaps_in_the_order_they_came(self, store: Store) -> None:
        a, b = await leased(store), await leased(store)
        result = await store.spans.append([span(a, 5), span(b, 5), span(a, 3)])
        assert result == AppendResult(stored=3)
        await store.spans.append([span(b, 1), span(a, 4)])
        page = await store.spans.page(SpanQuery(rollout_ids=(b.rollout.id, a.rollout.id)))
        assert [(s.attempt_id, s.start_ns, s.sequence) for s in page.items] == [
            (a.attempt.id, 5, 1), (a.attempt.id, 3, 2), (a.attempt.id, 4, 3),
            (b.attempt.id, 5, 1), (b.attempt.id, 1, 2),
        ]  # fmt: skip

    async def test_a_span_that_is_there_already_is_not_stored_again(self, store: Store) -> None:
        lease = await leased(store)
        await store.spans.append([span(lease, 1, version="first")])
        result = await store.spans.append(
            [span(lease, 2), span(lease, 1, version="again"), span(lease, 2), span(lease, 3)]
        )
        assert (result.stored, result.duplicates) == (2, 2)
        items = (await store.spans.page(SpanQuery())).items
        assert [(s.start_ns, s.sequence) for s in items] == [(1, 1), (2, 2), (3, 3)]
        assert items[0].attributes == {"version": "first"}

    async def test_concurrent_appends_leave_no_gap(self, store: Store) -> None:
        lease = await leased(store)
        await asyncio.gather(*(store.spans.append([span(lease, n), span(lease, 100 + n)]) for n in range(20)))
        items = (await store.spans.page(SpanQuery(attempt_ids=(lease.attempt.id,)))).items
        assert [s.sequence for s in items] == list(range(1, 41))

    async def test_a_span_comes_back_as_it_was(self, store: Store) -> None:
        lease = await leased(store)
        tokens = TokenRecord.pack([1, 2, 70000], [5, 6], [-0.25, -1e-9], version=3, finish_reason="stop")
        sent = msgspec.structs.replace(
            span(
                lease,
                1,
                agent="writer",
                messages=[{"role": "user", "content": "é\u0000"}],
                share=0.1,
                none=None,
            ),
            tokens=(tokens, TokenRecord(incomplete="no ids")),
            parent_id="f" * 16,
            error="it broke",
        )
        await store.spans.append([sent])
        (read,) = (await store.spans.page(SpanQuery())).items
        assert read == msgspec.structs.replace(sent, sequence=1)
        assert list(read.tokens[0].prompt_ids) == [1, 2, 70000]

    async def test_late_spans_are_kept_aside_and_revive_nothing(self, store: Store) -> None:
        lease = await leased(store)
        await store.spans.append([span(lease, 1)])
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        assert await store.spans.append([span(lease, 2), span(lease, 1)]) == AppendResult(
            stored=0, duplicates=1, late=1
        )
        assert [s.start_ns for s in (await store.spans.page(SpanQuery())).items] == [1]
        both = (await store.spans.page(SpanQuery(include_late=True))).items
        assert [(s.start_ns, s.sequence, s.late) for s in both] == [(1, 1, False), (2, 2, True)]
        assert (await store.rollouts.get(lease.rollout.id)).status is RolloutStatus.SUCCEEDED

    async def test_spans_of_an_attempt_past_its_lease_are_late(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(store, ttl_s=10.0)
        clock.advance(11.0)
        assert (await store.spans.append([span(lease, 1)], token=lease.attempt.token)).late == 1

    async def test_spans_with_an_older_token_are_late(self, store: Store, clock: ManualClock) -> None:
        lease = await leased(
            store, ttl_s=10.0, request=RolloutRequest(task=0, config=RolloutConfig(max_attempts=2))
        )
        clock.advance(11.0)
        (successor,) = await store.rollouts.lease("successor")
        assert (await store.spans.append([span(successor, 1)], token=lease.attempt.token)).late == 1
        assert (await store.spans.append([span(successor, 2)], token=successor.attempt.token)).late == 0

    async def test_spans_of_an_unknown_attempt_are_refused_with_their_batch(self, store: Store) -> None:
        lease = await leased(store)
        stray = msgspec.structs.replace(span(lease, 2), attempt_id="nowhere")
        with pytest.raises(NotFound, match="nowhere"):
            await store.spans.append([span(lease, 1), stray])
        assert await store.spans.count() == 0

    async def test_a_span_under_another_rollout_is_refused(self, store: Store) -> None:
        a, b = await leased(store), await leased(store)
        with pytest.raises(NotFound, match=b.rollout.id):
            await store.spans.append([msgspec.structs.replace(span(a, 1), rollout_id=b.rollout.id)])

    async def test_an_impossible_reward_refuses_its_batch(self, store: Store) -> None:
        lease = await leased(store)
        good = reward(lease, 2, value=1.0)
        for value in (math.nan, math.inf, True, "high", None):
            bad = msgspec.structs.replace(
                good, attributes={**good.attributes, semconv.EVALUATION_SCORE: value}
            )
            with pytest.raises(InvalidReward):
                await store.spans.append([span(lease, 1), bad])
        assert await store.spans.count() == 0

    async def test_an_attribute_that_is_not_a_number_is_refused(self, store: Store) -> None:
        lease = await leased(store)
        with pytest.raises(ValueError, match="inf"):
            await store.spans.append([span(lease, 1), span(lease, 2, deep={"list": [-math.inf]})])
        assert await store.spans.count() == 0

    async def test_a_span_that_is_too_large_is_refused(self, store: Store) -> None:
        lease = await leased(store)
        with pytest.raises(LimitExceeded, match="bytes"):
            await store.spans.append([span(lease, 1, text="x" * (17 * 2**20))])

    async def test_spans_come_in_pages(self, store: Store) -> None:
        leases = [await leased(store) for _ in range(2)]
        for lease in leases:
            await store.spans.append([span(lease, number) for number in range(5)])
        query = SpanQuery(rollout_ids=tuple(lease.rollout.id for lease in leases))
        seen: list[tuple[str, int]] = []
        sizes: list[int] = []
        cursor: str | None = None
        while not sizes or cursor is not None:
            page = await store.spans.page(query, limit=4, cursor=cursor)
            seen += [(s.attempt_id, s.sequence) for s in page.items]
            sizes.append(len(page.items))
            cursor = page.cursor
        assert seen == [(lease.attempt.id, sequence) for lease in leases for sequence in range(1, 6)]
        assert sizes == [4, 4, 2]

    async def test_a_page_of_large_spans_has_fewer_of_them(self, store: Store) -> None:
        lease = await leased(store)
        text = "x" * 2**20
        for start in range(1, 41, 10):
            await store.spans.append([span(lease, n, text=text) for n in range(start, start + 10)])
        sizes: list[int] = []
        seen: list[int] = []
        cursor: str | None = None
        while not sizes or cursor is not None:
            page = await store.spans.page(SpanQuery(), cursor=cursor)
            seen += [one.sequence for one in page.items]
            sizes.append(len(page.items))
            cursor = page.cursor
        assert seen == list(range(1, 41))
        assert max(sizes) <= 32
        assert len(sizes) <= 3

    async def test_a_page_has_at_least_one_span_however_large(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        limits = Limits(page_bytes=1000)
        async with self.make_limited_store(tmp_path, clock=clock, limits=limits) as store:
            lease = await leased(store)
            small = [span(lease, number) for number in range(1, 20)]
            await store.spans.append([*small, span(lease, 20, text="x" * 5000), span(lease, 21)])
            sizes: list[int] = []
            cursor: str | None = None
            while not sizes or cursor is not None:
                page = await store.spans.page(SpanQuery(), cursor=cursor)
                sizes.append(len(page.items))
                cursor = page.cursor
        assert sum(sizes) == 21
        assert sizes[-2:] == [1, 1]
        assert 1 < max(sizes) < 10

    async def test_spans_are_restricted_by_every_field_of_the_query(self, store: Store) -> None:
        a, b = await leased(store), await leased(store)
        await store.spans.append(
            [span(a, 1, agent="writer"), span(a, 2, operation="execute_tool"), span(b, 3, agent="writer")]
        )

        async def found(query: SpanQuery) -> list[int]:
            assert await store.spans.count(query) == len((await store.spans.page(query)).items)
            return [s.start_ns for s in (await store.spans.page(query)).items]

        assert await found(SpanQuery()) == [1, 2, 3]
        assert await found(SpanQuery(rollout_ids=(a.rollout.id, "nowhere"))) == [1, 2]
        assert await found(SpanQuery(attempt_ids=(b.attempt.id,))) == [3]
        assert await found(SpanQuery(attempt_ids=(b.attempt.id,), rollout_ids=(a.rollout.id,))) == []
        assert await found(SpanQuery(rollout_ids=())) == []
        assert await found(SpanQuery(operations=("execute_tool", "chat"))) == [1, 2, 3]
        assert await found(SpanQuery(operations=("execute_tool",))) == [2]
        assert await found(SpanQuery(agent="writer")) == [1, 3]

    async def test_spans_are_found_by_name_and_time(self, store: Store) -> None:
        lease = await leased(store)
        await store.spans.append([span(lease, number) for number in range(1, 6)])
        query = SpanQuery(names=("span 2", "span 3", "span 5"), since_ns=3, until_ns=5)
        found = (await store.spans.page(query)).items
        assert [one.name for one in found] == ["span 3"]
        assert await store.spans.count(query) == 1

    async def test_a_span_with_large_attributes_comes_back_as_it_was(self, store: Store) -> None:
        lease = await leased(store)
        text = "x" * 30_000
        spans = [span(lease, number, small=1, text=text, table=[[number] * 9000]) for number in (1, 2)]
        await store.spans.append(spans)
        found = (await store.spans.page(SpanQuery())).items
        assert [one.attributes for one in found] == [one.attributes for one in spans]
        assert [list(one.attributes) for one in found] == [list(one.attributes) for one in spans]

    async def test_count_leaves_late_spans_out_unless_asked(self, store: Store) -> None:
        lease = await leased(store)
        await store.spans.append([span(lease, 1)])
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        await store.spans.append([span(lease, 2), span(lease, 3)])
        assert [await store.spans.count(SpanQuery(include_late=late)) for late in (False, True)] == [1, 3]

    async def test_rewards_are_those_of_the_attempt_that_succeeded(self, store: Store) -> None:
        request = RolloutRequest(task=0, config=retrying(FailureClass.AGENT_ERROR))
        first = await leased(store, request=request)
        await store.spans.append([reward(first, 1, value=0.1)])
        await store.rollouts.finish(first.attempt.id, token=first.attempt.token, failure=failure())
        (second,) = await store.rollouts.lease("worker")
        await store.spans.append(
            [reward(second, 2, value=0.2), reward(second, 3, value=1.0, dimension="brief")]
        )
        await store.rollouts.finish(second.attempt.id, token=second.attempt.token)
        found = await store.spans.rewards([first.rollout.id])
        assert [(r.attempt_id, r.value, r.dimension) for r in found] == [
            (second.attempt.id, 0.2, "reward"), (second.attempt.id, 1.0, "brief"),
        ]  # fmt: skip

    async def test_rewards_of_a_failed_rollout_are_those_of_its_newest_attempt(self, store: Store) -> None:
        request = RolloutRequest(task=0, config=retrying(FailureClass.AGENT_ERROR))
        first = await leased(store, request=request)
        await store.spans.append([reward(first, 1, value=0.1)])
        await store.rollouts.finish(first.attempt.id, token=first.attempt.token, failure=failure())
        (second,) = await store.rollouts.lease("worker")
        await store.spans.append([reward(second, 2, value=0.2)])
        await store.rollouts.finish(second.attempt.id, token=second.attempt.token, failure=failure())
        assert [r.value for r in await store.spans.rewards([first.rollout.id])] == [0.2]

    async def test_late_rewards_do_not_count(self, store: Store) -> None:
        lease = await leased(store)
        await store.spans.append([reward(lease, 1, value=0.5)])
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        await store.spans.append([reward(lease, 2, value=1.0)])
        assert [r.value for r in await store.spans.rewards([lease.rollout.id, "nowhere"])] == [0.5]


class ResourceContract(StoreCase):
    """Resource sets never change, and two publishers never overwrite each other unknowingly."""

    async def test_versions_rise_and_the_newest_live_set_is_live(self, store: Store) -> None:
        assert await store.resources.live() is None
        first = await store.resources.publish({"system": PromptTemplate(template="one")}, run_id="r", step=1)
        second = await store.resources.publish({}, parent=first.id)
        assert (first.version, second.version) == (1, 2)
        live = await store.resources.live()
        assert live is not None
        assert live.id == second.id
        assert (await store.resources.get(first.id)).state is ResourceState.RETIRED

    async def test_a_set_comes_back_as_it_was_published(self, store: Store) -> None:
        sent: dict[str, Resource] = {
            "system": PromptTemplate(template="{task}"),
            "policy": Weights(path="w", version=4),
        }
        made = await store.resources.publish(sent, state=ResourceState.CANDIDATE, run_id="r", step=3)
        read = await store.resources.get(made.id)
        assert read == made
        assert read.resources == {name: ResourceRecord.of(resource) for name, resource in sent.items()}
        assert (read.run_id, read.step, read.parent, read.state) == ("r", 3, None, ResourceState.CANDIDATE)

    async def test_publishing_as_live_needs_the_live_set_as_parent(self, store: Store) -> None:
        first = await store.resources.publish({})
        await store.resources.publish({}, parent=first.id)
        with pytest.raises(Conflict, match=first.id):
            await store.resources.publish({}, parent=first.id)
        with pytest.raises(Conflict, match="None"):
            await store.resources.publish({})
        assert len(await store.resources.list()) == 2

    async def test_a_set_published_again_under_its_key_is_there_once(self, store: Store) -> None:
        prompt = PromptTemplate(template="hi")
        first = await store.resources.publish({"p": prompt}, idempotency_key="k")
        assert await store.resources.publish({"p": prompt}, idempotency_key="k") == first
        assert len(await store.resources.list()) == 1
        with pytest.raises(Conflict, match="'k'"):
            await store.resources.publish({"q": prompt}, idempotency_key="k")

    async def test_an_unknown_parent_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            await store.resources.publish({}, parent="nowhere", state=ResourceState.CANDIDATE)

    async def test_an_unknown_set_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            await store.resources.get("nowhere")
        with pytest.raises(NotFound, match="nowhere"):
            await store.resources.move("nowhere", ResourceState.LIVE)

    async def test_promotion_retires_what_was_live_and_can_be_rolled_back(self, store: Store) -> None:
        old = await store.resources.publish({})
        new = await store.resources.publish({}, parent=old.id, state=ResourceState.CANDIDATE)
        promoted = await store.resources.move(new.id, ResourceState.LIVE)
        assert promoted.state is ResourceState.LIVE
        assert (await store.resources.get(old.id)).state is ResourceState.RETIRED
        await store.resources.move(old.id, ResourceState.LIVE)
        assert (await store.resources.get(new.id)).state is ResourceState.RETIRED

    async def test_a_canary_keeps_its_weight_until_it_moves_on(self, store: Store) -> None:
        canary = await store.resources.publish({}, state=ResourceState.CANARY, weight=0.25)
        assert canary.weight == 0.25
        assert (await store.resources.move(canary.id, ResourceState.CANARY, weight=0.5)).weight == 0.5
        assert (await store.resources.move(canary.id, ResourceState.RETIRED)).weight == 0.0

    async def test_a_weight_that_is_no_share_is_refused(self, store: Store) -> None:
        for weight in (-0.1, 1.5, math.nan):
            with pytest.raises(ValueError, match="share"):
                await store.resources.publish({}, state=ResourceState.CANARY, weight=weight)

    async def test_sets_are_listed_newest_first_by_run(self, store: Store) -> None:
        for run_id in ("a", "b", "a"):
            await store.resources.publish({}, state=ResourceState.CANDIDATE, run_id=run_id)
        assert [found.version for found in await store.resources.list(run_id="a")] == [3, 1]
        assert [found.version for found in await store.resources.list(limit=2)] == [3, 2]
