"""What one store exported, another one has: everything, equal, through the public methods."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.archive import Kind, Layout, Manifest, export_store, import_archive
from agentlightning.store import (
    AttemptRecord,
    EventRecord,
    MemoryStore,
    MetricRecord,
    Record,
    ResourceSetRecord,
    RolloutRecord,
    RunRecord,
    SpanQuery,
    SpanRecord,
    SqliteStore,
    Store,
)
from agentlightning.testing import ManualClock
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Failure,
    FailureClass,
    MetricPoint,
    Mode,
    ResourceRecord,
    ResourceSet,
    ResourceState,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Run,
    RunEvent,
    RunKind,
    RunStatus,
    Span,
    SpanSource,
    SpanStatus,
    TokenRecord,
)

Said = Callable[[Store], Awaitable[object]]
LAYOUTS = pytest.mark.parametrize("layout", [Layout.JSONL, Layout.PARQUET])

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=10)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
TIMES = st.floats(0, 1e12)
METRICS = FINITE.map(lambda value: value + 0.0)  # sqlite has no -0.0
FAILURES = st.builds(Failure, kind=st.sampled_from(FailureClass), message=TEXT, detail=TEXT)
TOKENS = st.builds(
    TokenRecord,
    # whole numbers mostly, as every program of ours packs them, and anything else that the wire lets through
    prompt=st.binary(max_size=5).map(lambda data: data * 4) | st.binary(max_size=5),
    response=st.binary(max_size=5).map(lambda data: data * 4),
    logprobs=st.binary(max_size=5).map(lambda data: data * 4),
    version=st.integers(-1, 2**63 - 1),
    incomplete=TEXT,
    finish_reason=TEXT,
    versions=st.just(b"") | st.binary(max_size=5).map(lambda data: data * 4),
)


@st.composite
def records(draw: Any) -> list[Record]:
    """All that a store may have, as records."""
    found: list[Record] = []
    for number in range(draw(st.integers(0, 2))):
        run_id = f"run {number}"
        run = draw(
            st.builds(
                Run,
                id=st.just(run_id),
                kind=st.sampled_from(RunKind),
                algorithm=TEXT,
                status=st.sampled_from([one for one in RunStatus if one is not RunStatus.RUNNING]),
                config=OBJECT,
                seed=st.integers(-(2**63), 2**64 - 1),
                created_at=st.just(float(number)),
                updated_at=TIMES,
                environment=st.dictionaries(TEXT, TEXT, max_size=2),
                finished_at=st.none() | TIMES,
                summary=OBJECT,
                error=st.none() | TEXT,
            )
        )
        found.append(RunRecord(run=run))
        points = draw(
            st.lists(
                st.builds(MetricPoint, name=NAME, step=st.integers(0, 9), value=METRICS, time=TIMES),
                max_size=4,
                unique_by=lambda point: (point.name, point.step),
            )
        )
        found += [MetricRecord(run_id=run_id, point=point) for point in points]
        events = draw(
            st.lists(st.builds(RunEvent, kind=NAME, message=TEXT, time=TIMES, data=OBJECT), max_size=3)
        )
        found += [EventRecord(run_id=run_id, index=index, event=one) for index, one in enumerate(events)]
    for number in range(draw(st.integers(0, 2))):
        found.append(
            ResourceSetRecord(
                resource_set=ResourceSet(
                    id=f"set {number}",
                    version=number + 1,
                    resources=draw(
                        st.dictionaries(NAME, st.builds(ResourceRecord, kind=NAME, value=OBJECT), max_size=2)
                    ),
                    parent=draw(st.none() | NAME),
                    state=ResourceState.RETIRED,
                    created_at=draw(TIMES),
                    weight=draw(st.floats(0, 1)),
                )
            )
        )
    for number in range(draw(st.integers(0, 3))):
        found += draw(rollouts(number))
    return found


@st.composite
def rollouts(draw: Any, number: int) -> list[Record]:
    """A rollout with its attempts and spans."""
    rollout_id = f"rollout {number}"
    count = draw(st.integers(0, 2))
    status = draw(st.sampled_from([RolloutStatus.SUCCEEDED, RolloutStatus.FAILED, RolloutStatus.CANCELLED]))
    rollout = Rollout(
        id=rollout_id,
        task=draw(JSON),
        mode=draw(st.sampled_from(Mode)),
        run_id=draw(st.none() | NAME),
        group=draw(st.none() | NAME),
        sample=draw(st.integers(0, 9)),
        seed=draw(st.none() | st.integers(-(2**63), 2**64 - 1)),
        resources=draw(st.none() | NAME),
        config=RolloutConfig(
            timeout_s=draw(st.none() | st.floats(1, 9)), max_attempts=draw(st.integers(1, 3))
        ),
        priority=draw(st.integers(-(2**63), 2**63 - 1)),
        metadata=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        status=status,
        attempts=count,
        created_at=draw(TIMES),
        finished_at=draw(TIMES),
        output=draw(JSON),
        failure=draw(st.none() | FAILURES),
    )
    found: list[Record] = [RolloutRecord(rollout=rollout)]
    for sequence in range(1, count + 1):
        attempt = Attempt(
            id=f"{rollout_id}.{sequence}",
            rollout_id=rollout_id,
            sequence=sequence,
            worker=draw(TEXT),
            token=sequence,
            status=draw(
                st.sampled_from([AttemptStatus.SUCCEEDED, AttemptStatus.FAILED, AttemptStatus.TIMED_OUT])
            ),
            leased_at=draw(TIMES),
            expires_at=draw(TIMES),
            deadline_at=draw(st.none() | TIMES),
            finished_at=draw(TIMES),
            output=draw(JSON),
            failure=draw(st.none() | FAILURES),
        )
        found.append(AttemptRecord(attempt=attempt))
        found += [
            SpanRecord(span=draw(spans(attempt, place))) for place in range(1, draw(st.integers(0, 3)) + 1)
        ]
    return found


def spans(attempt: Attempt, place: int) -> st.SearchStrategy[Span]:
    return st.builds(
        Span,
        rollout_id=st.just(attempt.rollout_id),
        attempt_id=st.just(attempt.id),
        span_id=st.just(f"{place:016x}"),
        trace_id=TEXT,
        name=TEXT,
        operation=st.sampled_from(["chat", "agl.state", "mine"]),
        source=st.sampled_from(SpanSource),
        start_ns=st.integers(-(2**63), 2**63 - 1),
        end_ns=st.integers(-(2**63), 2**63 - 1),
        parent_id=st.none() | TEXT,
        agent=st.none() | NAME,
        status=st.sampled_from(SpanStatus),
        error=st.none() | TEXT,
        attributes=OBJECT,
        tokens=st.lists(TOKENS, max_size=3).map(tuple),
        sequence=st.just(place),
        late=st.booleans(),
    )


@LAYOUTS
async def test_an_imported_archive_says_what_the_store_said(
    store: Store, tmp_path: Path, archive: Path, said: Said, layout: Layout
) -> None:
    clock = ManualClock()
    manifest = await export_store(store, archive, layout=layout, unfinished=True)
    for target in (MemoryStore(clock=clock), SqliteStore(tmp_path / "copy.db", clock=clock)):
        async with target:
            imported = await import_archive(target, archive)
            assert imported.added == manifest_records(manifest)
            assert await said(target) == await said(store)


@LAYOUTS
async def test_rollouts_that_are_not_over_are_left_out(
    store: Store, other: Store, archive: Path, layout: Layout
) -> None:
    await export_store(store, archive, layout=layout)
    await import_archive(other, archive)
    assert [one.id for one in (await other.rollouts.list()).items] == ["good", "bad", "dropped"]
    assert (await other.statistics()).spans == 8
    assert await other.runs.list() == await store.runs.list()


def manifest_records(manifest: Manifest) -> int:
    return sum(count for kind, count in manifest.counts.items() if kind is not Kind.REWARDS)


@LAYOUTS
def test_anything_that_a_store_may_have_survives(said: Said, layout: Layout) -> None:
    @settings(max_examples=25, deadline=None)
    @given(records())
    def round_trip(found: list[Record]) -> None:
        asyncio.run(_round_trip(found, said, layout))

    round_trip()


async def _round_trip(found: list[Record], said: Said, layout: Layout) -> None:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        async with MemoryStore(clock=clock) as source:
            await source.load(found)
            await export_store(source, Path(folder) / "a", layout=layout)
            before = await said(source)
        for target in (MemoryStore(clock=clock), SqliteStore(Path(folder) / "copy.db", clock=clock)):
            async with target:
                await import_archive(target, Path(folder) / "a")
                after = await said(target)
                assert after == before
                assert msgspec.msgpack.encode(after) == msgspec.msgpack.encode(
                    before
                )  # -0.0 is not 0.0, nor 1 True


@LAYOUTS
async def test_importing_twice_changes_nothing(
    store: Store, other: Store, archive: Path, said: Said, layout: Layout
) -> None:
    await export_store(store, archive, layout=layout, unfinished=True)
    first = await import_archive(other, archive)
    before = await said(other)
    second = await import_archive(other, archive)
    assert (second.added, second.skipped) == (0, first.added)
    assert await said(other) == before


@LAYOUTS
async def test_an_archive_of_an_archive_is_the_same(
    store: Store, other: Store, tmp_path: Path, layout: Layout
) -> None:
    first = await export_store(store, tmp_path / "first", layout=layout, clock=lambda: 0.0)
    await import_archive(other, tmp_path / "first")
    second = await export_store(other, tmp_path / "second", layout=layout, clock=lambda: 0.0)
    assert second == first


async def test_lines_of_json_may_be_compressed(store: Store, other: Store, archive: Path, said: Said) -> None:
    await export_store(store, archive, compress=True, unfinished=True)
    assert (archive / "spans.jsonl.gz").is_file()
    await import_archive(other, archive)
    assert await said(other) == await said(store)


async def test_each_rollout_arrives_with_all_that_is_its_own(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.archive._batches._BATCH", 1)
    await export_store(store, archive)
    async with MemoryStore() as target:
        seen: list[dict[str, int]] = []
        load = target.load

        async def watched(batch: list[Record]) -> object:
            loaded = await load(batch)
            completed = [one.rollout.id for one in await target.rollouts.completions()]
            pages = [
                await target.spans.page(SpanQuery(rollout_ids=(name,), include_late=True))
                for name in completed
            ]
            seen.append({name: len(page.items) for name, page in zip(completed, pages, strict=True)})
            return loaded

        monkeypatch.setattr(target, "load", watched)
        await import_archive(target, archive)
    assert seen[-1] == {"good": 5, "bad": 3, "dropped": 0}
    assert all(count == seen[-1][name] for found in seen for name, count in found.items())
    assert len(seen) > 8
