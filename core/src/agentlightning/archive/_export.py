"""Export: all that a store has, or one run of it, as an archive."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agentlightning.archive._folder import new_folder
from agentlightning.archive._jsonl import JsonlWriter
from agentlightning.archive._kinds import Layout
from agentlightning.archive._manifest import MANIFEST, Manifest, rendered, sealed, totals
from agentlightning.archive._medium import Writer
from agentlightning.archive._source import Selection, parts_of
from agentlightning.archive._threads import in_thread
from agentlightning.store import Store


async def export_store(
    store: Store,
    path: Path,
    *,
    layout: Layout = Layout.JSONL,
    run_id: str | None = None,
    unfinished: bool = False,
    compress: bool = False,
    force: bool = False,
    clock: Callable[[], float] = time.time,
) -> Manifest:
    """Writes an archive. It appears at `path` when it is whole and safe on disk; before, there is nothing.

    Memory does not grow with the store. Others may write meanwhile: a rollout that is there has all the spans
    that it had when it was over.

    Args:
        run_id: Only this run, with its rollouts and the resource sets that they used.
        unfinished: Rollouts that are not over, too.
        compress: Lines of JSON with gzip; tables are always compressed.
        force: Replaces an archive that is there.

    Raises:
        ConfigError: Something is at `path` already, or it cannot be written to.
        MissingExtra: The layout needs a package that is not installed.
        NotFound: There is no such run.
        StoreError: A rollout was deleted while it was read.
    """
    selection = Selection(run_id=run_id, unfinished=unfinished, rewards=layout is Layout.PARQUET)
    with new_folder(path, force=force) as folder:
        writer = _writer(folder, layout=layout, compress=compress)
        try:
            async for kind, items in parts_of(store, selection):
                await in_thread(writer.write, kind, items)
            files = await in_thread(writer.finish)
        finally:
            writer.close()
        manifest = sealed(
            Manifest(
                layout=layout,
                created_at=clock(),
                run_id=run_id,
                unfinished=unfinished,
                counts=totals(files),
                files=files,
            )
        )
        (folder / MANIFEST).write_bytes(rendered(manifest))
    return manifest


def _writer(folder: Path, *, layout: Layout, compress: bool) -> Writer:
    match layout:
        case Layout.JSONL:
            return JsonlWriter(folder, compress=compress)
        case Layout.PARQUET:
            from agentlightning.archive._parquet import ParquetWriter

            return ParquetWriter(folder)
        case Layout.OTLP:
            from agentlightning.archive._otlp_writer import OtlpWriter

            return OtlpWriter(folder, compress=compress)
