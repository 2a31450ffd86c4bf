"""An export is there whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentlightning.archive import Kind, Layout, export_store, import_archive
from agentlightning.archive._jsonl import JsonlWriter
from agentlightning.errors import ConfigError, NotFound, StoreError
from agentlightning.store import MemoryStore, Page, Retention, RolloutQuery, SpanQuery, Store
from agentlightning.testing import ManualClock
from agentlightning.types import Rollout, RolloutRequest, Span, SpanSource

Said = Callable[[Store], Awaitable[object]]


async def test_an_archive_is_replaced_only_when_that_is_wanted(store: Store, archive: Path) -> None:
    await export_store(store, archive)
    before = (archive / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="add --force"):
        await export_store(store, archive)
    assert (archive / "manifest.json").read_bytes() == before
    await export_store(store, archive, force=True, layout=Layout.PARQUET)
    assert not (archive / "spans.jsonl").exists()
    assert [path.name for path in archive.parent.iterdir() if "archive" in path.name] == ["archive"]


@pytest.mark.parametrize("force", [False, True])
async def test_what_is_no_archive_is_never_replaced(store: Store, archive: Path, force: bool) -> None:
    contents(archive, {"thesis.txt": b"mine"})
    with pytest.raises(ConfigError, match="no archive, so it is not replaced"):
        await export_store(store, archive, force=force)
    with pytest.raises(ConfigError, match="no archive, so it is not replaced"):
        await export_store(store, archive / "thesis.txt", force=force)
    (archive.parent / "link").symlink_to(archive)
    with pytest.raises(ConfigError, match="no archive, so it is not replaced"):
        await export_store(store, archive.parent / "link", force=force)
    assert contents(archive) == {"thesis.txt": b"mine"}


async def test_folders_above_are_made_and_an_empty_one_is_used(store: Store, tmp_path: Path) -> None:
    await export_store(store, tmp_path / "a" / "b" / "c")
    (tmp_path / "empty").mkdir()
    await export_store(store, tmp_path / "empty")
    assert (tmp_path / "a" / "b" / "c" / "manifest.json").is_file()
    assert (tmp_path / "empty" / "manifest.json").is_file()


async def test_a_folder_that_cannot_be_written_is_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write an archive"):
        await export_store(store, tmp_path / "file" / "archive")


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, RuntimeError])
@pytest.mark.parametrize("layout", [Layout.JSONL, Layout.PARQUET])
async def test_an_export_that_is_interrupted_leaves_what_was_there(
    store: Store,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: Layout,
    error: type[BaseException],
) -> None:
    await export_store(store, archive, clock=lambda: 1.0)
    before = contents(archive)

    async def breaks(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(store.runs, "events", breaks)
    with pytest.raises(error):
        await export_store(store, archive, layout=layout, force=True)
    assert contents(archive) == before
    assert [path.name for path in archive.parent.iterdir() if "archive" in path.name] == ["archive"]


async def test_files_are_not_closed_while_they_are_written(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on, log = asyncio.Event(), threading.Event(), list[str]()
    loop = asyncio.get_running_loop()

    def slow(self: object, *_: object) -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(10)
        log.append("written")

    def closed(self: JsonlWriter) -> None:
        log.append("closed")
        close(self)

    close = JsonlWriter.close
    monkeypatch.setattr(JsonlWriter, "write", slow)
    monkeypatch.setattr(JsonlWriter, "close", closed)
    exporting = asyncio.ensure_future(export_store(store, archive))
    await began.wait()
    exporting.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert log == ["written", "closed"]


async def test_one_run_is_exported_with_what_it_used(store: Store, other: Store, archive: Path) -> None:
    manifest = await export_store(store, archive, run_id="second")
    assert manifest.run_id == "second"
    await import_archive(other, archive)
    assert [run.id for run in await other.runs.list()] == ["second"]
    assert [one.id for one in (await other.rollouts.list()).items] == ["bad"]
    assert [one.version for one in await other.resources.list()] == [1]  # the set it made, which bad used too
    with pytest.raises(NotFound, match="third"):
        await export_store(store, archive.parent / "third", run_id="third")
    assert not (archive.parent / "third").exists()


async def test_sets_that_a_run_used_but_did_not_make_are_there(
    store: Store, other: Store, archive: Path
) -> None:
    (foreign,) = [one for one in await store.resources.list() if one.run_id == "first"]
    await store.rollouts.enqueue(
        [
            RolloutRequest(task=0, id="pinned", run_id="second", resources=foreign.id),
            RolloutRequest(task=0, id="dangling", run_id="second", resources="never-there"),
        ]
    )
    await export_store(store, archive, run_id="second", unfinished=True)
    await import_archive(other, archive)
    assert foreign.id in {one.id for one in await other.resources.list()}


@pytest.mark.parametrize("spans", [1, 3, 1_000])
async def test_pages_of_any_size_give_the_same_archive(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch, spans: int
) -> None:
    expected = await export_store(store, archive, unfinished=True, clock=lambda: 0.0)
    monkeypatch.setattr("agentlightning.archive._source._MOST_SPANS", spans)
    monkeypatch.setattr("agentlightning.archive._source._FEWEST_SPANS", 1)
    again = await export_store(store, archive, unfinished=True, clock=lambda: 0.0, force=True)
    assert again == expected


async def test_attempts_that_are_interleaved_come_by_rollout(clock: ManualClock, archive: Path) -> None:
    async with MemoryStore(clock=clock) as source, MemoryStore(clock=clock) as target:
        await source.rollouts.enqueue([RolloutRequest(task=0, id=name) for name in "abc"])
        (await source.rollouts.enqueue([RolloutRequest(task=0, id="urgent", priority=1)])).clear()
        leases = await source.rollouts.lease("worker", limit=4)
        for number in range(3):
            for lease in leases:
                await source.spans.append([_span(lease.rollout.id, lease.attempt.id, number)])
        for lease in leases:
            await source.rollouts.finish(lease.attempt.id, token=lease.attempt.token)
        await export_store(source, archive)
        assert (await import_archive(target, archive)).added == 4 + 4 + 12


async def test_a_rollout_that_moves_on_while_it_is_exported_is_whole(
    clock: ManualClock, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MemoryStore(clock=clock) as source, MemoryStore(clock=clock) as target:
        await source.rollouts.enqueue([RolloutRequest(task=0, id="moving")])
        attempts = source.rollouts.attempts

        async def moving(rollout_ids: list[str]) -> object:
            leases = await source.rollouts.lease(
                "worker"
            )  # after the rollout was read, before its attempts are
            for lease in leases:
                await source.spans.append([_span("moving", lease.attempt.id, 1)])
            found = await attempts(rollout_ids)
            for lease in leases:
                await source.rollouts.finish(lease.attempt.id, token=lease.attempt.token, output="done")
            return found

        monkeypatch.setattr(source.rollouts, "attempts", moving)
        manifest = await export_store(source, archive, unfinished=True)
        assert (manifest.counts[Kind.ATTEMPTS], manifest.counts[Kind.SPANS]) == (1, 1)
        await import_archive(target, archive)
        assert (await target.rollouts.get("moving")).output == "done"
        assert [one.finished_at for one in await target.rollouts.attempts(["moving"])] == [clock.now]


async def test_a_rollout_that_is_trimmed_while_it_is_exported_is_an_error(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = store.spans.page

    async def trimmed(query: SpanQuery, *, limit: int = 1, cursor: str | None = None) -> Page[Span]:
        await store.trim(Retention(max_rollouts=0))
        return await page(query, limit=limit, cursor=cursor)

    monkeypatch.setattr(store.spans, "page", trimmed)
    with pytest.raises(StoreError, match="was deleted while it was exported"):
        await export_store(store, archive)
    assert not contents(archive)


async def test_a_store_that_does_not_list_all_is_an_error(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = store.runs.list

    async def capped(*, limit: int = 100) -> object:
        return await listed(limit=min(limit, 1))

    monkeypatch.setattr(store.runs, "list", capped)
    with pytest.raises(StoreError, match="has 2 runs and lists only 1"):
        await export_store(store, archive)


async def test_short_pages_are_read_on(
    store: Store, other: Store, archive: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts, spans = store.rollouts.list, store.spans.page

    async def few(query: RolloutQuery, *, limit: int = 1, cursor: str | None = None) -> Page[Rollout]:
        return await rollouts(query, limit=min(limit, 2), cursor=cursor)

    async def one(query: SpanQuery, *, limit: int = 1, cursor: str | None = None) -> Page[Span]:
        return await spans(query, limit=1, cursor=cursor)

    with monkeypatch.context() as patch:
        patch.setattr(store.rollouts, "list", few)
        patch.setattr(store.spans, "page", one)
        await export_store(store, archive, unfinished=True)
    await import_archive(other, archive)
    assert await said(other) == await said(store)


def contents(folder: Path, given: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """What is in a folder, after putting something there."""
    for name, data in (given or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def _span(rollout_id: str, attempt_id: str, number: int) -> Span:
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        span_id=f"{number:016x}",
        trace_id="0" * 31 + "1",
        name="step",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=number,
        end_ns=number,
    )
