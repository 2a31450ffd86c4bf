"""The store's contract: what it takes in from another store."""
# ruff: noqa: S101 - the names of tests say it, and tests assert

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agentlightning.errors import Conflict, NotFound
from agentlightning.store import (
    AttemptRecord,
    EventRecord,
    MetricRecord,
    Record,
    ResourceSetRecord,
    Retention,
    RolloutRecord,
    RunRecord,
    SpanQuery,
    SpanRecord,
    Store,
)
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.testing._store_case import StoreCase, failure, leased, reward, span
from agentlightning.testing._store_run_contract import job, point
from agentlightning.types import (
    AttemptStatus,
    PromptTemplate,
    ResourceState,
    RolloutConfig,
    RolloutRequest,
    RolloutStatus,
    RunEvent,
    RunStatus,
)


class LoadContract(StoreCase):
    """Records of another store are taken in as they were, once, and wholly or not at all."""

    async def test_what_one_store_exported_another_takes_in(self, store: Store) -> None:
        records = await _exported(store)
        await store.trim(Retention(max_rollouts=0))
        loaded = await store.load(records)
        again = await store.load(records)
        assert loaded.added + loaded.skipped == len(records)
        assert (again.added, again.skipped) == (0, len(records))

    async def test_loaded_records_read_as_they_were(
        self, tmp_path: Path, store: Store, clock: ManualClock
    ) -> None:
        records = await _exported(store)
        (tmp_path / "other").mkdir()
        async with self.make_store(tmp_path / "other", clock=clock) as other:
            assert (await other.load(records)).added == len(records)
            assert await _exported(other) == records
            assert await other.spans.rewards(["whole"]) == await store.spans.rewards(["whole"])
            assert [one.rollout.id for one in await other.rollouts.completions()] == ["whole", "failed"]
            lease = await leased(other)
            assert lease.rollout.id not in {"whole", "failed"}

    async def test_another_rollout_under_a_loaded_id_is_a_conflict(self, store: Store) -> None:
        records = await _exported(store)
        await store.rollouts.enqueue([RolloutRequest(task="mine", id="taken")])
        taken = [one for one in records if isinstance(one, RolloutRecord)][:1]
        renamed = RolloutRecord(rollout=msgspec.structs.replace(taken[0].rollout, id="taken"))
        with pytest.raises(Conflict, match="'taken'"):
            await store.load([renamed])

    async def test_a_record_without_what_it_belongs_to_is_refused(self, store: Store) -> None:
        records = await _exported(store)
        spans = [one for one in records if isinstance(one, SpanRecord)]
        orphan = SpanRecord(span=msgspec.structs.replace(spans[0].span, attempt_id="nowhere.1"))
        with pytest.raises(NotFound, match="nowhere"):
            await store.load([orphan])

    async def test_a_gap_in_loaded_spans_is_refused(
        self, tmp_path: Path, store: Store, clock: ManualClock
    ) -> None:
        records = await _exported(store)
        first = next(index for index, one in enumerate(records) if isinstance(one, SpanRecord))
        (tmp_path / "other").mkdir()
        async with self.make_store(tmp_path / "other", clock=clock) as other:
            with pytest.raises(ValueError, match="missing"):
                await other.load([*records[:first], *records[first + 1 :]])

    async def test_a_batch_with_a_conflict_adds_nothing(self, store: Store) -> None:
        await store.rollouts.enqueue([RolloutRequest(task="mine", id="taken")])
        (found,) = (await store.rollouts.list()).items
        others = [msgspec.structs.replace(found, id=name, task="other") for name in ("new", "taken")]
        with pytest.raises(Conflict, match="'taken'"):
            await store.load([RolloutRecord(rollout=one) for one in others])
        assert [one.id for one in (await store.rollouts.list()).items] == ["taken"]

    async def test_another_span_under_a_loaded_id_is_a_conflict(self, store: Store) -> None:
        records = await _exported(store)
        there = next(one.span for one in records if isinstance(one, SpanRecord))
        with pytest.raises(Conflict, match=there.span_id):
            await store.load([SpanRecord(span=msgspec.structs.replace(there, name="other"))])

    async def test_an_attempt_that_ended_while_it_was_exported_ends_its_rollout(
        self, tmp_path: Path, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(store)
        await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output="done")
        attempts = await store.rollouts.attempts([lease.rollout.id])
        (tmp_path / "other").mkdir()
        async with self.make_store(tmp_path / "other", clock=clock) as other:
            await other.load([RolloutRecord(rollout=lease.rollout), AttemptRecord(attempt=attempts[0])])
            (rollout,) = await other.rollouts.wait([lease.rollout.id], timeout_s=0.0)
            assert (rollout.status, rollout.output) == (RolloutStatus.SUCCEEDED, "done")

    async def test_an_open_attempt_of_a_rollout_that_went_on_is_lost(
        self, tmp_path: Path, store: Store, clock: ManualClock
    ) -> None:
        lease = await leased(store)
        done = await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        (tmp_path / "other").mkdir()
        async with self.make_store(tmp_path / "other", clock=clock) as other:
            await other.load([RolloutRecord(rollout=done), AttemptRecord(attempt=lease.attempt)])
            clock.advance(1000.0)
            (attempt,) = await other.rollouts.attempts([done.id])
            assert attempt.status is AttemptStatus.LOST
            assert (await other.rollouts.get(done.id)).status is RolloutStatus.SUCCEEDED

    async def test_an_open_attempt_that_is_loaded_ends_with_its_lease(
        self, tmp_path: Path, store: Store, clock: ManualClock
    ) -> None:
        request = RolloutRequest(task=0, config=RolloutConfig(max_attempts=2))
        lease = await leased(store, ttl_s=10.0, request=request)
        (tmp_path / "other").mkdir()
        async with self.make_store(tmp_path / "other", clock=clock) as other:
            await other.load([RolloutRecord(rollout=lease.rollout), AttemptRecord(attempt=lease.attempt)])
            assert await other.rollouts.lease("worker") == []
            clock.advance(11.0)
            (again,) = await other.rollouts.lease("worker")
            assert (again.rollout.id, again.attempt.sequence) == (lease.rollout.id, 2)

    async def test_an_attempt_that_its_rollout_never_had_is_refused(self, store: Store) -> None:
        lease = await leased(store)
        attempt = msgspec.structs.replace(lease.attempt, id=f"{lease.rollout.id}.2", sequence=2)
        with pytest.raises(ValueError, match="sequence 2"):
            await store.load([AttemptRecord(attempt=attempt)])


async def _filled(store: Store) -> None:
    """A run, a resource set, a rollout that succeeded and one that failed, each once."""
    if any(run.id == "r" for run in await store.runs.list()):
        return
    await store.runs.create(job("r"))
    await store.runs.update("r", status=RunStatus.SUCCEEDED, summary={"best": 1.0})
    await store.runs.log("r", points=[point("loss", 0, 1.5)])
    await store.runs.log("r", events=[RunEvent(kind=kind, message=kind, time=1.0) for kind in ("a", "b")])
    published = await store.resources.publish({"p": PromptTemplate(template="hi")}, run_id="r")
    await store.resources.move(published.id, ResourceState.RETIRED)
    lease = await leased(store, request=RolloutRequest(task={"q": 1}, id="whole", run_id="r", group="g"))
    large = span(lease, 2, text="x" * 20_000)
    await store.spans.append([span(lease, 1, agent="writer"), large, reward(lease, 3, value=0.5)])
    await store.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output={"answer": 2})
    await store.spans.append([span(lease, 4)])
    broken = await leased(store, request=RolloutRequest(task=2, id="failed", run_id="r"))
    await store.rollouts.finish(broken.attempt.id, token=broken.attempt.token, failure=failure())


async def _exported(store: Store) -> list[Record]:
    """Records of what `_filled` made."""
    await _filled(store)
    rollouts = [await store.rollouts.get(name) for name in ("whole", "failed")]
    attempts = await store.rollouts.attempts(["whole", "failed"])
    spans = (await store.spans.page(SpanQuery(rollout_ids=("whole",), include_late=True))).items
    events = await store.runs.events("r")
    sets = await store.resources.list(run_id="r")
    return [
        *(RunRecord(run=run) for run in await store.runs.list()),
        *(MetricRecord(run_id="r", point=one) for one in await store.runs.metrics("r")),
        *(EventRecord(run_id="r", index=index, event=event) for index, event in enumerate(events)),
        *(ResourceSetRecord(resource_set=one) for one in sets),
        *(RolloutRecord(rollout=rollout) for rollout in rollouts),
        *(AttemptRecord(attempt=attempt) for attempt in attempts),
        *(SpanRecord(span=one) for one in spans),
    ]
