"""`agl work`: a runner for the rollouts of a store."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.cli._exit import ExitCode
from agentlightning.cli._options import effective, json_option, quiet_option, run_options
from agentlightning.cli._output import print_json
from agentlightning.observer import Event, RolloutFinished
from agentlightning.plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from agentlightning.config import RunConfig
    from agentlightning.worker import WorkOptions, WorkReport

_SAY_EVERY_S = 10.0


@click.command("work")
@click.argument("target", required=False)
@click.option("--run", "run_id", metavar="RUN", help="Take rollouts of this run only.")
@click.option(
    "--until-idle", type=click.FloatRange(min=0.0), metavar="S", help="End after S seconds without work."
)
@click.option(
    "--grace", type=click.FloatRange(min=0.0), default=30.0, show_default=True, metavar="S",
    help="When stopped, let what is running end for S seconds.",
)  # fmt: skip
@click.option(
    "--lease-ttl", type=click.FloatRange(min=0.1), default=30.0, show_default=True, metavar="S",
    help="Seconds without a heartbeat after which others take over.",
)  # fmt: skip
@run_options
@quiet_option
@json_option
def command(
    *,
    file: Path | None,
    assignments: tuple[str, ...],
    run_id: str | None,
    until_idle: float | None,
    grace: float,
    lease_ttl: float,
    quiet: bool,
    as_json: bool,
    **flags: object,
) -> int:
    """Run the agent TARGET on rollouts of a store, such as http://host:4747, until Ctrl-C.

    Any number of workers, on any number of machines, share the work. Stopped once, a worker takes no more work and lets
    what is running end; stopped twice, it ends at once, and others take over when its leases run out.
    """
    from agentlightning.worker import WorkOptions

    config = effective(file=file, assignments=assignments, flags=flags).config
    options = WorkOptions(run_id=run_id, until_idle_s=until_idle, grace_s=grace, lease_ttl_s=lease_ttl)
    report, stopped_by = asyncio.run(
        _work(config, options, plugins=load_plugins(), said=not quiet and not as_json)
    )
    counts = {status.value: count for status, count in sorted(report.rollouts.items())}
    if as_json:
        print_json({"rollouts": counts})
    elif not quiet:
        click.echo(_line(sum(counts.values()), counts), err=True)
    return ExitCode.INTERRUPTED if stopped_by == signal.SIGINT else ExitCode.OK


async def _work(
    config: RunConfig, options: WorkOptions, *, plugins: Plugins, said: bool
) -> tuple[WorkReport, int | None]:
    from agentlightning.worker import work

    stop = asyncio.Event()
    signals: list[int] = []
    working = asyncio.create_task(
        work(config, options, plugins=plugins, stop=stop, observers=[_Progress()] if said else [])
    )

    def heard(signum: int) -> None:
        if signals:
            working.cancel()
        signals.append(signum)
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, heard, signum)
    if said:
        click.echo(f"working for {config.store.partition('?')[0]}; Ctrl-C ends", err=True)
    return await working, signals[0] if signals else None


class _Progress:
    """One line that lives on a terminal; elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._live = sys.stderr.isatty()
        self._say_at = time.monotonic()

    def notify(self, event: Event) -> None:
        """Counts finished rollouts."""
        if not isinstance(event, RolloutFinished):
            return
        status = event.rollout.status.value
        self._counts[status] = self._counts.get(status, 0) + 1
        if self._live:
            print(
                f"\r{_line(sum(self._counts.values()), self._counts)} ", end="", file=sys.stderr, flush=True
            )
        elif time.monotonic() >= self._say_at:
            self._say_at = time.monotonic() + _SAY_EVERY_S
            print(_line(sum(self._counts.values()), self._counts), file=sys.stderr)


def _line(total: int, counts: dict[str, int]) -> str:
    parts = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return f"{total} rollouts" + (f": {parts}" if parts else "")
