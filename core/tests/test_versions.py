"""Versions never repeat nor fall, over any sequence of publishing, loading, and processes that end and begin."""

from __future__ import annotations

import tempfile
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.errors import EngineError, StoreUnavailable
from agentlightning.store import MemoryStore, Store
from agentlightning.types import PolicyLineage, RolloutRequest, RunEvent, Span, SpanSource, TokenRecord
from agentlightning.versions import Versions, highest_seen, lineage_of, loading

EVENTS = st.lists(st.sampled_from(["publish", "load", "kill"]) | st.integers(0, 30), max_size=40)


@settings(deadline=None)
@given(EVENTS)
def test_a_number_is_given_once_and_never_after_a_higher_one(events: list[str | int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        versions = Versions(Path(name))
        given_ = [versions.following()]
        for event in events:
            if event == "kill":
                versions = Versions(Path(name))
                assert versions.newest == given_[-1]
            elif isinstance(event, int):  # a state that was saved elsewhere, under any number
                given_.append(versions.following(least=event))
                assert given_[-1] >= event
            elif event == "load":
                given_.append(versions.following(least=given_[len(given_) // 2]))
            else:
                given_.append(versions.following())
        assert given_ == sorted(set(given_))
        assert given_[0] == 0


def test_numbers_that_were_given_elsewhere_are_skipped(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "not there yet")
    versions.skip(-1)
    assert versions.newest == -1
    versions.skip(6)
    versions.skip(3)
    assert versions.following() == 7


def test_numbers_without_a_directory_end_with_the_process() -> None:
    assert [Versions().following(), Versions().following()] == [0, 0]


def test_a_number_that_cannot_be_kept_is_not_given(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    (tmp_path / "policy-version.part").mkdir()
    with pytest.raises(StoreUnavailable, match="policy version 0 cannot be kept"):
        versions.following()
    (tmp_path / "policy-version.part").rmdir()
    assert versions.following() == 0


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy-version").write_text("seven")
    with pytest.raises(EngineError, match=r"policy-version' is to hold .* holds 'seven'"):
        Versions(tmp_path)


async def call(store: Store, run_id: str, *, operation: str, version: int, versions: bytes = b"") -> None:
    await store.rollouts.enqueue([RolloutRequest(task=0, run_id=run_id)])
    (lease,) = await store.rollouts.lease("worker", run_id=run_id)
    span = Span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id="1" * 16,
        trace_id="1" * 32,
        parent_id=None,
        name=operation,
        operation=operation,
        source=SpanSource.GATEWAY,
        start_ns=1,
        end_ns=2,
        attributes={semconv.POLICY_VERSION: version},
        tokens=(TokenRecord(version=version, versions=versions),) if versions else (),
    )
    await store.spans.append([span], token=lease.attempt.token)


async def test_the_highest_version_that_a_run_was_seen_with_is_of_its_calls() -> None:
    async with MemoryStore() as store:
        assert await highest_seen(store, "mine") == -1
        for version in (3, 5, 4):
            await call(store, "mine", operation=semconv.OPERATION_CHAT, version=version)
        await call(store, "other", operation=semconv.OPERATION_CHAT, version=40)
        await call(store, "mine", operation=semconv.OPERATION_DECISION, version=50)
        assert await highest_seen(store, "mine") == 5
        changed = array("i", [5, 5, 7]).tobytes()
        await call(store, "mine", operation=semconv.OPERATION_CHAT, version=5, versions=changed)
        assert await highest_seen(store, "mine") == 7


STEPS = st.lists(st.just("update") | st.none() | st.integers(0, 40), max_size=40)


@given(STEPS, st.data())
def test_updates_between_versions_are_the_shortest_way_over_what_they_were_made_from(
    steps: list[str | int | None], data: st.DataObject
) -> None:
    ways: dict[int, dict[int, int]] = {0: {}}
    loaded: dict[int, int | None] = {}
    for version, step in enumerate(steps, 1):
        before = version - 1 if step == "update" else int(step) % version if step is not None else None
        ways[version] = {}
        if before is not None:
            ways[version][before] = ways[before][version] = int(step == "update")
        if step != "update":
            loaded[version] = before
    one, other = (data.draw(st.integers(0, len(steps))) for _ in range(2))
    assert PolicyLineage(loaded=loaded).updates_between(one, other) == _shortest(ways, one).get(other)


def _shortest(ways: dict[int, dict[int, int]], start: int) -> dict[int, int]:
    """Distances to all that can be reached; the ways are a forest."""
    found, left = {start: 0}, [start]
    while left:
        near = left.pop()
        for to, length in ways[near].items():
            if to not in found:
                found[to] = found[near] + length
                left.append(to)
    return found


def test_events_say_which_versions_were_loaded() -> None:
    events = [
        RunEvent(kind="weights", message="", time=0.0, data=dict(loading(7, was=4))),
        RunEvent(kind="pipeline", message="", time=0.0, data={"version": 8}),
        RunEvent(kind="weights", message="policy version 9 is loaded from checkpoint 000001", time=0.0),
        RunEvent(kind="weights", message="", time=0.0, data=dict(loading(12, was=None))),
    ]
    assert lineage_of(events) == PolicyLineage(loaded={7: 4, 12: None})
