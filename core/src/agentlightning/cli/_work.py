"""`agl work`: a runner for the rollouts of a store."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.cli._exit import ExitCode
from agentlightning.cli._options import effective, json_option, quiet_option, run_options
from agentlightning.cli._output import aside, print_json
from agentlightning.observer import Event, RolloutFinished
from agentlightning.plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from agentlightning.config import RunConfig
    from agentlightning.worker import WorkOptions, WorkReport

_SAY_EVERY_S = 10.0
_REDRAW_EVERY_S = 0.2


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
    view = None if quiet or as_json else _Progress()
    try:
        with aside(as_json):
            report, stopped_by = asyncio.run(_work(config, options, plugins=load_plugins(), view=view))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        if view is not None:
            view.close()
    counts = {status.value: count for status, count in sorted(report.rollouts.items())}
    if as_json:
        print_json({"rollouts": counts})
    elif not quiet:
        click.echo(_line(counts), err=True)
    return ExitCode.INTERRUPTED if stopped_by == signal.SIGINT else ExitCode.OK


async def _work(
    config: RunConfig, options: WorkOptions, *, plugins: Plugins, view: _Progress | None
) -> tuple[WorkReport, int | None]:
    """Works until a signal or idleness ends it; the second signal cancels."""
    from agentlightning.worker import work

    stop = asyncio.Event()
    signals: list[int] = []
    observers = [] if view is None else [view]
    working = asyncio.create_task(work(config, options, plugins=plugins, stop=stop, observers=observers))

    def heard(signum: int) -> None:
        if signals:
            working.cancel()
        elif view is not None:
            view.say("no more work is taken; what is running may end (once more: stop at once)")
        signals.append(signum)
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, heard, signum)
    if view is not None:
        view.say(f"working for {config.store.partition('?')[0]}; Ctrl-C ends")
    return await working, signals[0] if signals else None


class _Progress:
    """One line that lives on a terminal; elsewhere a line every few seconds. On stderr."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._live = sys.stderr.isatty()
        self._shown = self._failed = False
        self._began_at = self._said_at = time.monotonic()

    def notify(self, event: Event) -> None:
        """Counts finished rollouts, and tells why the first one failed: often all others fail alike."""
        if not isinstance(event, RolloutFinished):
            return
        status = event.rollout.status.value
        self._counts[status] = self._counts.get(status, 0) + 1
        if (failure := event.rollout.failure) and not self._failed:
            self._failed = True
            self.say(f"the first failure: {event.rollout.id}: {' '.join(failure.message.split())}")
        now = time.monotonic()
        if now - self._said_at < (_REDRAW_EVERY_S if self._live else _SAY_EVERY_S):
            return
        self._said_at = now
        rate = sum(self._counts.values()) / max(1e-3, now - self._began_at)
        line = f"{_line(self._counts)}  ({rate:.1f}/s)"
        if self._live:
            click.echo(f"\r{line}\x1b[K", nl=False, err=True)
            self._shown = True
        else:
            click.echo(line, err=True)

    def say(self, line: str) -> None:
        """A line of its own."""
        self.close()
        click.echo(line, err=True)

    def close(self) -> None:
        """Ends the live line."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False


def _line(counts: Mapping[str, int]) -> str:
    parts = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return f"{sum(counts.values())} rollouts" + (f": {parts}" if parts else "")
