"""The store's contract: runs, and the store as a whole."""
# ruff: noqa: S101 - the names of tests say it, and tests assert

from __future__ import annotations

import math
from functools import partial

import pytest

from agentlightning.errors import Conflict, IllegalTransition, LeaseLost, NotFound
from agentlightning.store import Store
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.testing._store_case import StoreCase
from agentlightning.types import Checkpoint, MetricPoint, Run, RunEvent, RunKind, RunStatus


class RunContract(StoreCase):
    """Runs outlive the processes that drive them."""

    async def test_a_run_comes_back_as_it_was_created(self, store: Store) -> None:
        run = await store.runs.create(job("r", config={"lr": 0.1, "nested": {"a": [1]}}))
        assert await store.runs.get("r") == run

    async def test_a_taken_run_id_is_refused(self, store: Store) -> None:
        await store.runs.create(job("r"))
        with pytest.raises(Conflict, match="'r'"):
            await store.runs.create(job("r", config={"lr": 0.1}))

    async def test_creating_the_same_run_again_changes_nothing(self, store: Store) -> None:
        first = await store.runs.create(job("r", owner="one"))
        assert await store.runs.create(job("r", owner="one")) == first
        assert len(await store.runs.list()) == 1

    async def test_events_logged_again_under_the_same_key_are_there_once(self, store: Store) -> None:
        await store.runs.create(job("r"))
        event = RunEvent(kind="note", message="once", time=0.0)
        for _ in range(2):
            await store.runs.log("r", events=[event], idempotency_key="k")
        assert await store.runs.events("r") == [event]
        with pytest.raises(Conflict, match="'k'"):
            await store.runs.log("r", idempotency_key="k")

    async def test_runs_are_listed_newest_first(self, store: Store) -> None:
        for name in "abc":
            await store.runs.create(job(name))
        assert [run.id for run in await store.runs.list(limit=2)] == ["c", "b"]

    async def test_a_run_whose_owner_is_silent_is_interrupted(self, store: Store, clock: ManualClock) -> None:
        await store.runs.create(job("r", owner="host:1"))
        await store.runs.heartbeat("r", owner="host:1", ttl_s=10.0)
        clock.advance(9.0)
        assert (await store.runs.get("r")).status is RunStatus.RUNNING
        await store.runs.heartbeat("r", owner="host:1", ttl_s=10.0)
        clock.advance(10.0)
        assert (await store.runs.get("r")).status is RunStatus.INTERRUPTED
        assert [run.status for run in await store.runs.list()] == [RunStatus.INTERRUPTED]

    async def test_a_run_that_never_had_a_heartbeat_is_interrupted_in_the_end(
        self, store: Store, clock: ManualClock
    ) -> None:
        await store.runs.create(job("r", owner="host:1"))
        clock.advance(3600.0)
        assert (await store.runs.get("r")).status is RunStatus.INTERRUPTED

    async def test_only_its_owner_drives_a_run(self, store: Store) -> None:
        await store.runs.create(job("r", owner="host:1"))
        with pytest.raises(LeaseLost, match="host:1"):
            await store.runs.heartbeat("r", owner="host:2")
        with pytest.raises(LeaseLost, match="host:1"):
            await store.runs.update("r", owner="host:2")

    async def test_an_interrupted_run_can_be_taken_over(self, store: Store, clock: ManualClock) -> None:
        await store.runs.create(job("r", owner="host:1"))
        clock.advance(60.0)
        run = await store.runs.update("r", owner="host:2", status=RunStatus.RUNNING, ttl_s=5.0)
        assert (run.owner, run.status, run.expires_at) == ("host:2", RunStatus.RUNNING, clock.now + 5.0)
        with pytest.raises(LeaseLost, match="host:2"):
            await store.runs.heartbeat("r", owner="host:1")

    async def test_a_request_to_stop_reaches_the_owner_but_not_the_next_one(self, store: Store) -> None:
        await store.runs.create(job("r", owner="host:1"))
        assert not await store.runs.heartbeat("r", owner="host:1")
        await store.runs.request_stop("r")
        assert await store.runs.heartbeat("r", owner="host:1")
        await store.runs.update("r", status=RunStatus.STOPPED)
        await store.runs.update("r", status=RunStatus.RUNNING, owner="host:1")
        assert not await store.runs.heartbeat("r", owner="host:1")

    async def test_update_changes_what_is_given_and_merges_the_summary(
        self, store: Store, clock: ManualClock
    ) -> None:
        await store.runs.create(job("r", owner="host:1"))
        await store.runs.update("r", summary={"a": 1, "b": 1})
        clock.advance(1.0)
        run = await store.runs.update("r", summary={"b": 2}, checkpoint=Checkpoint(step=4, path="here"))
        assert run == await store.runs.get("r")
        assert run.summary == {"a": 1, "b": 2}
        assert run.checkpoint == Checkpoint(step=4, path="here")
        assert (run.owner, run.updated_at, run.finished_at) == ("host:1", clock.now, None)

    async def test_an_ending_frees_the_owner(self, store: Store, clock: ManualClock) -> None:
        await store.runs.create(job("r", owner="host:1"))
        run = await store.runs.update("r", status=RunStatus.FAILED, error="it broke")
        assert (run.owner, run.expires_at, run.finished_at) == (None, None, clock.now)
        assert run.error == "it broke"

    async def test_success_and_failure_are_final(self, store: Store) -> None:
        for status in (RunStatus.SUCCEEDED, RunStatus.FAILED):
            await store.runs.create(job(status.value))
            await store.runs.update(status.value, status=status)
            with pytest.raises(IllegalTransition, match="final"):
                await store.runs.update(status.value, status=RunStatus.RUNNING)

    async def test_repeating_what_ended_a_run_changes_nothing(self, store: Store, clock: ManualClock) -> None:
        await store.runs.create(job("r", owner="host:1"))
        await store.runs.update("r", summary={"a": 1})
        summary = {"best": [0.5, None]}
        ended = await store.runs.update("r", status=RunStatus.FAILED, summary=summary, error="it broke")
        clock.advance(5.0)
        again = await store.runs.update("r", status=RunStatus.FAILED, summary=summary, error="it broke")
        assert again == ended == await store.runs.get("r")
        with pytest.raises(IllegalTransition, match="final"):
            await store.runs.update("r", status=RunStatus.FAILED, summary=summary, error="something else")
        with pytest.raises(IllegalTransition, match="final"):
            await store.runs.update("r", status=RunStatus.FAILED, summary={"best": 1})
        assert await store.runs.get("r") == ended

    async def test_metric_points_come_by_name_and_step_and_the_last_one_counts(self, store: Store) -> None:
        await store.runs.create(job("r"))
        await store.runs.create(job("other"))
        await store.runs.log("r", points=[point("b", 1, 0.1), point("a", 10, 0.2), point("a", 9, 0.3)])
        await store.runs.log("r", points=[point("a", 9, 0.4)])
        await store.runs.log("other", points=[point("a", 1, 9.0)])
        assert await store.runs.metrics("r") == [point("a", 9, 0.4), point("a", 10, 0.2), point("b", 1, 0.1)]
        assert await store.runs.metrics("r", names=["b", "c"]) == [point("b", 1, 0.1)]

    async def test_a_metric_that_is_not_a_number_is_refused(self, store: Store) -> None:
        await store.runs.create(job("r"))
        for value in (math.nan, math.inf):
            with pytest.raises(ValueError, match="loss"):
                await store.runs.log("r", points=[point("loss", 1, value)])
        assert await store.runs.metrics("r") == []

    async def test_events_come_in_order(self, store: Store) -> None:
        await store.runs.create(job("r"))
        sent = [RunEvent(kind="note", message=str(n), time=9.0 - n, data={"n": [n]}) for n in range(3)]
        await store.runs.log("r", events=sent[:2])
        await store.runs.log("r", events=sent[2:])
        assert await store.runs.events("r") == sent

    async def test_an_unknown_run_is_not_found(self, store: Store) -> None:
        runs = store.runs
        beat = partial(runs.heartbeat, owner="host:1")
        for call in (runs.get, beat, runs.update, runs.request_stop, runs.log, runs.metrics, runs.events):
            with pytest.raises(NotFound, match="nowhere"):
                await call("nowhere")


def job(run_id: str, *, owner: str | None = None, config: dict[str, object] | None = None) -> Run:
    """A running run."""
    return Run(
        id=run_id,
        kind=RunKind.TRAIN,
        algorithm="apo",
        status=RunStatus.RUNNING,
        config=config or {},
        seed=0,
        created_at=1.0,
        updated_at=1.0,
        owner=owner,
    )


def point(name: str, step: int, value: float) -> MetricPoint:
    """A metric point."""
    return MetricPoint(name=name, step=step, value=value, time=0.0)
