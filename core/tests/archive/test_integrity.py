"""An archive that is not what was written is refused before anything of it is in a store."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from agentlightning.archive import Layout, export_store, import_archive, read_manifest
from agentlightning.archive._manifest import describe, rendered, sealed
from agentlightning.errors import ConfigError, Conflict
from agentlightning.store import Record, Store
from agentlightning.types import RolloutRequest

Said = Callable[[Store], Awaitable[object]]
LAYOUTS = pytest.mark.parametrize("layout", list(Layout))


async def nothing_comes_in(other: Store, archive: Path, *, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        await import_archive(other, archive)
    counts = await other.statistics()
    assert (sum(counts.rollouts.values()), counts.runs, counts.resource_sets) == (0, 0, 0)


@LAYOUTS
async def test_one_wrong_byte_in_any_file_is_found(
    store: Store, other: Store, archive: Path, layout: Layout
) -> None:
    await export_store(store, archive, layout=layout)
    for path in files_of(archive):
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            await nothing_comes_in(other, archive, says=path.name.replace(".", r"\."))
        path.write_bytes(whole)
    assert (await import_archive(other, archive)).added > 0


@LAYOUTS
async def test_truncated_lengthened_and_missing_files_are_found(
    store: Store, other: Store, archive: Path, layout: Layout
) -> None:
    manifest = await export_store(store, archive, layout=layout)
    for file in manifest.files:
        path = archive / file.name
        whole = path.read_bytes()
        if whole:
            path.write_bytes(whole[:-1])
            await nothing_comes_in(other, archive, says="truncated")
        path.write_bytes(whole + b"\n")
        await nothing_comes_in(other, archive, says="too long")
        path.unlink()
        await nothing_comes_in(other, archive, says="missing")
        path.write_bytes(whole)


async def test_a_link_in_place_of_a_file_is_refused(store: Store, other: Store, archive: Path) -> None:
    await export_store(store, archive)
    (archive / "spans.jsonl").rename(archive.parent / "elsewhere")
    (archive / "spans.jsonl").symlink_to(archive.parent / "elsewhere")
    await nothing_comes_in(other, archive, says="not a plain file")


@pytest.mark.parametrize("name", ["../spans.jsonl", "/etc/passwd", "spans.parquet", "runs.jsonl"])
async def test_a_manifest_cannot_name_other_files(
    store: Store, other: Store, archive: Path, name: str
) -> None:
    manifest = await export_store(store, archive)
    files = tuple(
        msgspec.structs.replace(file, name=name) if file.name == "spans.jsonl" else file
        for file in manifest.files
    )
    forged = sealed(msgspec.structs.replace(manifest, files=files))
    (archive / "manifest.json").write_bytes(rendered(forged))
    await nothing_comes_in(other, archive, says="it names the file")


@pytest.mark.parametrize("field", ["version", "record_version"])
async def test_a_newer_version_is_refused_with_what_to_do(
    store: Store, other: Store, archive: Path, field: str
) -> None:
    await export_store(store, archive)
    manifest = json.loads((archive / "manifest.json").read_text())
    manifest |= {field: 99, "something": "new"}
    (archive / "manifest.json").write_text(json.dumps(manifest))
    await nothing_comes_in(other, archive, says="99, this program reads up to .* install a newer")


async def test_what_is_no_archive_is_said_to_be_none(other: Store, archive: Path) -> None:
    await nothing_comes_in(other, archive, says="there is no archive")
    assert files_of(archive) == []
    await nothing_comes_in(other, archive, says=r"has no manifest\.json")
    (archive / "manifest.json").write_text('{"format": "mine", "version": 1, "record_version": 1}')
    await nothing_comes_in(other, archive, says="the manifest of 'mine'")
    for text in ("", "[]", "{", "\udcff"):
        (archive / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        await nothing_comes_in(other, archive, says="damaged")
    (archive / "manifest.json").write_text(" " * 2**21)
    await nothing_comes_in(other, archive, says="more than")


async def test_a_record_that_cannot_be_read_is_named_by_its_line(
    store: Store, other: Store, archive: Path
) -> None:
    await export_store(store, archive)
    lines = (archive / "runs.jsonl").read_bytes().splitlines(keepends=True)
    rewritten(archive, "runs.jsonl", lines[0] + b'{"type":"run","run":{"id":1}}\n')
    await nothing_comes_in(other, archive, says="line 2: .*nothing was imported")


async def test_spans_in_another_order_than_their_attempts_are_refused(
    store: Store, other: Store, archive: Path
) -> None:
    await export_store(store, archive)
    lines = (archive / "attempts.jsonl").read_bytes().splitlines(keepends=True)
    rewritten(archive, "attempts.jsonl", b"".join(lines[1:]))
    with pytest.raises(ConfigError, match="no place there"):
        await import_archive(other, archive)


async def test_an_import_that_was_interrupted_goes_on(
    store: Store, other: Store, archive: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.archive._batches._BATCH", 1)
    await export_store(store, archive, unfinished=True)
    load, calls = other.load, 0

    async def breaks(batch: list[Record]) -> object:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return await load(batch)

    with monkeypatch.context() as patch:
        patch.setattr(other, "load", breaks)
        with pytest.raises(KeyboardInterrupt):
            await import_archive(other, archive)
    imported = await import_archive(other, archive)
    assert imported.added > 0
    assert imported.skipped > 0
    assert await said(other) == await said(store)


async def test_a_conflict_says_how_much_came_in_before(
    store: Store, other: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.archive._batches._BATCH", 1)
    await other.rollouts.enqueue([RolloutRequest(task="mine", id="bad")])
    await export_store(store, archive)
    with pytest.raises(Conflict, match=r"'bad' is taken .*; \d+ records were imported before this, and stay"):
        await import_archive(other, archive)
    assert (await other.rollouts.get("good")).output == {"answer": [2, None]}


def rewritten(archive: Path, name: str, data: bytes) -> None:
    """Gives a file other contents, with a manifest that fits."""
    (archive / name).write_bytes(data)
    manifest = read_manifest(archive)
    files = tuple(
        describe(archive, name=name, kind=file.kind, records=file.records) if file.name == name else file
        for file in manifest.files
    )
    forged = sealed(msgspec.structs.replace(manifest, files=files))
    (archive / "manifest.json").write_bytes(rendered(forged))


def files_of(archive: Path) -> list[Path]:
    """The files of an archive; of none, it makes an empty folder."""
    archive.mkdir(exist_ok=True)
    return sorted(archive.iterdir())
