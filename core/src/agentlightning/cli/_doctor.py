"""`agl doctor`: is this installation in order, and if not, what mends it."""

from __future__ import annotations

import click

from agentlightning.cli._checks import Check, Health, all_checks
from agentlightning.cli._exit import ExitCode
from agentlightning.cli._options import json_option, store_option
from agentlightning.cli._output import new_table, plain, print_json, show, status_text


@click.command("doctor")
@store_option
@json_option
def command(store: str | None, as_json: bool) -> int:
    """Check versions, plugins, GPU, ports, store and captured calls, and say how to mend what is wrong.

    Exits with 1 if something is broken.
    """
    checks = all_checks(store)
    broken = [check for check in checks if check.health is Health.BROKEN]
    if as_json:
        print_json({"ok": not broken, "checks": checks})
    else:
        _show(checks)
    return ExitCode.FAILED if broken else ExitCode.OK


def _show(checks: list[Check]) -> None:
    table = new_table("check", "health", "found")
    for check in checks:
        table.add_row(plain(check.name), status_text(check.health.value), plain(check.found))
    show(table)
    remedies = [check for check in checks if check.remedy]
    for check in remedies:
        show(plain(f"{check.name}: {check.remedy}"))
    if not remedies:
        show(plain("\nall in order"))
