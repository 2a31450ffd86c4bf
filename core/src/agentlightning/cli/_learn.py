"""`agl learn`: continuous learning, and how far each resource set has come."""

from __future__ import annotations

from pathlib import Path

import click

from agentlightning.cli._options import (
    check_names,
    effective,
    json_option,
    quiet_option,
    run_options,
)
from agentlightning.cli._output import ago, aside, new_table, plain, print_json, show, status_text
from agentlightning.cli._results import listeners, show_training
from agentlightning.cli._stores import with_store
from agentlightning.plugins import load_plugins
from agentlightning.store import Store
from agentlightning.types import ResourceSet, ResourceState, Run, RunEvent

_SETS = 20
_EVENTS = 12


@click.command("learn")
@click.argument("target", required=False)
@click.option("--train", metavar="FILE", help="The stream of tasks, and what is learned on: JSONL or CSV.")
@click.option("--val", metavar="FILE", help="Held-out tasks that a candidate is judged on: JSONL or CSV.")
@click.option(
    "--live", is_flag=True, help="Live rollouts are those of other workers of the store; none is played."
)
@click.option(
    "--every-rollouts",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    metavar="N",
    help="A round begins after so many live rollouts.",
)
@click.option(
    "--every-seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="S",
    help="And not before so many seconds.",
)
@click.option(
    "--accept",
    type=click.Choice(["gain", "no_loss"]),
    default="gain",
    show_default=True,
    help="What a candidate must show beyond its 95 % interval.",
)
@click.option(
    "--canary",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Share of live rollouts that a canary is given; 0 promotes on held-out tasks alone.",
)
@click.option(
    "--canary-rollouts",
    type=click.IntRange(min=2),
    default=32,
    show_default=True,
    metavar="N",
    help="Outcomes that a canary is judged by.",
)
@click.option(
    "--rounds", type=click.IntRange(min=0), default=0, metavar="N", help="End after so many rounds."
)
@click.option("--once", is_flag=True, help="One round, the same as --rounds 1.")
@click.option("--status", is_flag=True, help="Only show how far each resource set of the store has come.")
@run_options
@quiet_option
@json_option
def command(
    *,
    file: Path | None,
    assignments: tuple[str, ...],
    live: bool,
    every_rollouts: int,
    every_seconds: float,
    accept: str,
    canary: float,
    canary_rollouts: int,
    rounds: int,
    once: bool,
    status: bool,
    quiet: bool,
    as_json: bool,
    **flags: object,
) -> int:  # fmt: skip
    """Learn while the agent TARGET stays live.

    Each round waits for live rollouts, judges the canary by them, and learns; what it learns becomes a candidate, on a
    gain on the held-out tasks a canary, and on live traffic live. What is worse is taken back. Ctrl-C stops cleanly; go
    on with `agl runs resume`. `agl learn --status` shows where it is, from the store alone.
    """
    if once and rounds not in (0, 1):
        raise click.UsageError(f"--once is one round, and --rounds says {rounds}; leave one out")
    config = effective(file=file, assignments=assignments, flags=flags).config
    if status:
        _show_status(config.store, as_json=as_json)
        return 0
    from agentlightning.continuous import Accept, Continuous, Traffic
    from agentlightning.jobs import trainer_of

    plugins = load_plugins()
    check_names(config, plugins)
    how = Continuous(
        traffic=Traffic.LIVE if live else Traffic.STREAM,
        every_rollouts=every_rollouts,
        every_seconds=every_seconds,
        accept=Accept(accept),
        canary=canary,
        canary_rollouts=canary_rollouts,
        rounds=1 if once else rounds,
    )
    observers = listeners(quiet=quiet, configured=config.observers)
    with aside(as_json):
        result = trainer_of(config, plugins=plugins, observers=observers).learn(how)
    code = show_training(result, as_json=as_json)
    if not as_json:
        _show_status(config.store, as_json=False)
    return code


def _show_status(store: str, *, as_json: bool) -> None:
    """Resource sets by state, and what happened to them."""

    async def job(opened: Store) -> tuple[list[ResourceSet], list[RunEvent]]:
        sets = await opened.resources.list(limit=_SETS)
        run = _latest(await opened.runs.list(limit=_SETS), sets)
        events = await opened.runs.events(run) if run else []
        return sets, [event for event in events if event.kind == "continuous"][-_EVENTS:]

    sets, events = with_store(store, job)
    if as_json:
        print_json({"sets": sets, "events": events})
        return
    if not sets:
        show("no resource sets yet; start with: agl learn TARGET --train FILE --val FILE")
        return
    versions = {one.id: one.version for one in sets}
    table = new_table("set", "state", "share", "parent", "run", "made", "resources")
    for one in sets:
        share = f"{one.weight:.0%}" if one.state is ResourceState.CANARY else None
        table.add_row(
            plain(one.version),
            status_text(one.state.value),
            plain(share),
            plain(versions.get(one.parent or "")),
            plain(one.run_id),
            plain(ago(one.created_at)),
            plain(", ".join(one.resources)),
        )
    show(table)
    for event in events:
        show(plain(f"{ago(event.time)}: {event.message}"))


def _latest(runs: list[Run], sets: list[ResourceSet]) -> str | None:
    """The newest run that has made one of the sets."""
    makers = {one.run_id for one in sets}
    return next((run.id for run in runs if run.id in makers), None)
