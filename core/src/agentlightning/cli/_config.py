"""`agl config`: the settings in effect, and where each came from."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from agentlightning.cli._options import configuration_options, effective, json_option
from agentlightning.cli._output import new_table, plain, print_json, show
from agentlightning.config import SWITCHES


@click.command("config")
@configuration_options
@json_option
def command(file: Path | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """The settings in effect, and where each came from.

    Flags win over the environment, the environment over the file. A setting such as gateway.port is
    AGL_GATEWAY__PORT in the environment, and --set gateway.port=8000 as a flag.
    """
    found = effective(file=file, assignments=assignments)
    if as_json:
        print_json(
            {
                "file": str(found.file) if found.file else None,
                "config": found.config,
                "sources": {setting.name: setting.source for setting in found.settings()},
            }
        )
        return
    table = new_table("setting", "value", "from")
    for setting in found.settings():
        value = None if setting.value in ({}, (), [], "") else setting.value
        text = value if isinstance(value, str) or value is None else msgspec.json.encode(value).decode()
        style = "dim" if setting.source == "default" else ""
        table.add_row(plain(setting.name), plain(text), plain(setting.source), style=style)
    show(table, plain(f"\nother environment variables: {', '.join(sorted(SWITCHES))}"))
