"""`agl export`: everything in a store as an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.cli._options import json_option, store_option
from agentlightning.errors import AglError

if TYPE_CHECKING:
    from agentlightning.archive import Manifest
    from agentlightning.store import Store


@click.command("export")
@click.option("--to", "path", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["jsonl", "parquet", "otlp"]),
    default="jsonl",
    show_default=True,
    help="Lines of JSON, tables, or OpenTelemetry's traces.",
)
@click.option("--run", metavar="RUN", help="Only this run, with its rollouts.")
@click.option("--unfinished", is_flag=True, help="Rollouts that are not over, too.")
@click.option("--gzip", "compress", is_flag=True, help="Compress lines of JSON.")
@click.option("--force", is_flag=True, help="Replace an archive that is there.")
@store_option
@json_option
def command(
    *,
    path: Path,
    layout: str,
    run: str | None,
    unfinished: bool,
    compress: bool,
    force: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Write everything in a store to a folder: rollouts, attempts, spans, rewards, resources and runs.

    The folder is there when all of it is safe on disk, and not before. Others may use the store meanwhile. Read it
    back with `agl import`.
    """
    from agentlightning.archive import Layout, export_store
    from agentlightning.cli._output import plain, print_json, show
    from agentlightning.cli._quantities import size_text
    from agentlightning.cli._stores import find_run, with_store

    async def job(opened: Store) -> Manifest:
        run_id = (await find_run(opened, run)).id if run else None
        return await export_store(
            opened,
            path,
            layout=Layout(layout),
            run_id=run_id,
            unfinished=unfinished,
            compress=compress,
            force=force,
        )

    try:
        manifest = with_store(store, job)
    except AglError:
        raise
    except OSError as error:
        raise AglError(
            f"the archive {str(path)!r} cannot be written: {error.strerror or error}; nothing of it is left there"
        ) from error
    if as_json:
        print_json({"path": str(path), "manifest": manifest})
        return
    counted = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in manifest.counts.items())
    size_bytes = sum(file.size_bytes for file in manifest.files)
    show(plain(f"exported {counted} to {path} ({size_text(size_bytes)})"))
