"""`agl import`: an archive, or somebody else's traces, into a store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.cli._options import json_option, store_option, store_url
from agentlightning.errors import ConfigError

if TYPE_CHECKING:
    from agentlightning.archive import Imported


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@store_option
@json_option
def command(*, path: Path, store: str | None, as_json: bool) -> None:
    """Read PATH into a store: an archive of `agl export`, or a file of OpenTelemetry's traces as JSON.

    What is in the store already is skipped, so an import that was interrupted goes on when it is repeated. Of
    traces, each becomes a rollout that can be trained on.
    """
    from agentlightning.archive import import_archive
    from agentlightning.cli._output import plain, print_json, show
    from agentlightning.cli._stores import store_at
    from agentlightning.plugins import load_plugins

    url = store_url(store)
    if url.startswith("memory://"):
        raise ConfigError("a store in memory is gone when the import ends; name another with --store URL")

    async def job() -> Imported:
        async with store_at(url, load_plugins()) as opened:
            return await import_archive(opened, path)

    imported = asyncio.run(job())
    if as_json:
        counts = {"added": imported.added, "skipped": imported.skipped, "rejected": imported.rejected}
        print_json({"store": url, **counts})
        return
    show(plain(f"imported {imported.added:,} records; {imported.skipped:,} were there already"))
    for reason, count in imported.rejected.items():
        show(plain(f"left out {count:,} spans: {reason}"))
