"""Import: the records of an archive into a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from agentlightning.archive import _jsonl
from agentlightning.archive._batches import batches
from agentlightning.archive._kinds import Layout
from agentlightning.archive._manifest import Manifest, read_manifest, verify
from agentlightning.archive._medium import Reader
from agentlightning.archive._threads import in_thread
from agentlightning.errors import ConfigError, StoreError
from agentlightning.store import Record, Store


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records of an archive.

    Attributes:
        added: New in the store.
        skipped: There already.
        manifest: Of the archive; None for a file of traces.
        rejected: Spans of traces that could not be taken, counted by reason.
    """

    added: int
    skipped: int
    manifest: Manifest | None = None
    rejected: dict[str, int] = {}


async def import_archive(store: Store, path: Path) -> Imported:
    """Loads an archive, or a file of traces in OpenTelemetry's JSON, into a store.

    All files are compared with the manifest before anything is loaded. Records go in by batches, each of them
    whole or not at all; what is in the store already is skipped, so an import that was interrupted goes on when it
    is repeated. Memory does not grow with the archive.

    Raises:
        ConfigError: There is no archive, it is damaged, or a newer version wrote it.
        Conflict: An id is taken by something else. The message says how much was imported before.
        MissingExtra: Reading it needs a package that is not installed.
    """
    reader, manifest = await in_thread(_opened, path)
    try:
        imported = await _load(store, reader)
    finally:
        reader.close()
    return msgspec.structs.replace(imported, manifest=manifest, rejected=dict(reader.rejected))


def _opened(path: Path) -> tuple[Reader, Manifest | None]:
    if path.is_file():
        from agentlightning.archive._otlp_reader import OtlpReader

        return OtlpReader([path], some=True), None
    if not path.is_dir():
        raise ConfigError(f"there is no archive {str(path)!r}; make one with: agl export --to {path}")
    manifest = read_manifest(path)
    return _verified(path, manifest), manifest


def _verified(path: Path, manifest: Manifest) -> Reader:
    match manifest.layout:
        case Layout.JSONL:
            verify(path, manifest, names=_jsonl.FILE_NAMES)
            return _jsonl.JsonlReader(path, manifest.files)
        case Layout.PARQUET:
            from agentlightning.archive import _parquet

            verify(path, manifest, names=_parquet.FILE_NAMES)
            return _parquet.ParquetReader(path, manifest.files)
        case Layout.OTLP:
            from agentlightning.archive import _otlp_reader

            verify(path, manifest, names=_otlp_reader.FILE_NAMES)
            return _otlp_reader.OtlpReader([path / file.name for file in manifest.files], some=False)


async def _load(store: Store, reader: Reader) -> Imported:
    added = skipped = 0
    waiting = batches(reader)
    try:
        while batch := await in_thread(_next, waiting):
            loaded = await store.load(batch)
            added += loaded.added
            skipped += loaded.skipped
    except StoreError as error:
        raise type(error)(f"{error}; {_so_far(added)}") from error
    except ValueError as error:  # a record that no store takes, or an archive that cannot be read on
        raise ConfigError(f"{error}; {_so_far(added)}") from error
    return Imported(added=added, skipped=skipped)


def _so_far(added: int) -> str:
    if not added:
        return "nothing was imported"
    return f"{added} records were imported before this, and stay; when it is mended, import again to go on"


def _next(waiting: Iterator[list[Record]]) -> list[Record]:
    return next(waiting, [])
