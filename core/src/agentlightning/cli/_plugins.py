"""`agl plugins`: what is installed, what it provides, and why something was skipped."""

from __future__ import annotations

import click

from agentlightning.cli._options import json_option
from agentlightning.cli._output import duration, new_table, plain, print_json, show, status_text
from agentlightning.plugins import PluginStatus, load_plugins


@click.command("plugins")
@json_option
def command(as_json: bool) -> None:
    """Installed plugins, what they provide, and why one was skipped.

    AGL_PLUGINS is the exact list to load, AGL_DISABLE a deny list, AGL_TRACE_PLUGINS=1 prints every hook call.
    """
    statuses = load_plugins().status()
    if as_json:
        print_json(statuses)
        return
    table = new_table("plugin", "from", "version", "status", "provides", "loaded in")
    for status in statuses:
        table.add_row(
            plain(status.name),
            plain(status.distribution),
            plain(status.version),
            status_text(status.status.value),
            plain(status.reason or _provided(status)),
            plain(duration(status.seconds) if status.seconds else None),
        )
    show(table)


def _provided(status: PluginStatus) -> str:
    """What it registered by kind: `algorithms apo, sft`; else the hooks that it implements."""
    kinds: dict[str, list[str]] = {}
    for provided in status.provides:
        kind, _, name = provided.partition(" ")
        kinds.setdefault(kind, []).append(name)
    parts = [f"{kind}{'s' if len(names) > 1 else ''}: {', '.join(names)}" for kind, names in kinds.items()]
    return " · ".join(parts) or ", ".join(status.hooks)
