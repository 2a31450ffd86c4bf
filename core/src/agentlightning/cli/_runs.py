"""`agl runs`: list, show, resume and stop runs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import click

from agentlightning._owner import judged
from agentlightning.cli._options import Shared, json_option, quiet_option, store_option, store_url
from agentlightning.cli._output import (
    MISSING,
    ago,
    aside,
    duration,
    new_table,
    number,
    plain,
    print_json,
    show,
    status_text,
)
from agentlightning.cli._pipeline import PIPELINE_EVENT
from agentlightning.cli._results import listeners, mean_of, models_of, show_training, summary_text
from agentlightning.cli._stores import find_run, with_store
from agentlightning.errors import ConfigError
from agentlightning.store import Store
from agentlightning.types import Json, MetricPoint, Run, RunEvent, RunStatus

_RESUMABLE = (RunStatus.INTERRUPTED, RunStatus.STOPPED)
_EVENTS = 12


@click.group("runs", invoke_without_command=True)
@store_option
@json_option
@click.pass_context
def command(context: click.Context, *, store: str | None, as_json: bool) -> None:
    """Training and evaluation runs; without a subcommand, lists them.

    A run is named by its id or the start of it.
    """
    context.obj = Shared(store, as_json)
    if context.invoked_subcommand is None:
        _list(store, as_json=as_json, limit=20)


@command.command("list")
@store_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most runs to list.")
@click.pass_obj
def list_runs(shared: Shared, *, store: str | None, as_json: bool, limit: int) -> None:
    """List runs, newest first."""
    _list(store or shared.store, as_json=as_json or shared.as_json, limit=limit)


def _list(store: str | None, *, as_json: bool, limit: int) -> None:
    async def job(opened: Store) -> list[Run]:
        return [judged(run) for run in await opened.runs.list(limit=limit)]

    runs = with_store(store, job)
    if as_json:
        print_json(runs)
        return
    if not runs:
        show("no runs yet; start one with: agl train TARGET --train FILE")
        return
    table = new_table("run", "kind", "algorithm", "status", "step", "held out", "started", "took")
    for run in runs:
        table.add_row(
            plain(run.id),
            plain(run.kind.value),
            plain(run.algorithm),
            status_text(run.status.value),
            plain(run.checkpoint.step if run.checkpoint else None),
            plain(_evaluations(run.summary)),
            plain(ago(run.created_at)),
            plain(duration((run.finished_at or run.updated_at) - run.created_at)),
        )
    show(table)


@command.command("show")
@click.argument("run_id", metavar="[RUN]", required=False)
@store_option
@json_option
@click.pass_obj
def show_run(shared: Shared, *, run_id: str | None, store: str | None, as_json: bool) -> None:
    """Show a run: results, metrics, events. Without RUN, the newest."""
    url = store or shared.store

    async def job(opened: Store) -> tuple[Run, dict[str, str], list[MetricPoint], list[RunEvent]]:
        run = await find_run(opened, run_id)
        newest = next(iter(await opened.resources.list(run_id=run.id, limit=1)), None)
        return run, models_of(newest), await opened.runs.metrics(run.id), await opened.runs.events(run.id)

    run, models, metrics, events = with_store(url, job)
    if as_json or shared.as_json:
        print_json({"run": run, "models": models, "metrics": metrics, "events": events})
        return
    _show_run(run, models=models, url=store_url(url))
    _show_metrics(metrics)
    _show_events(run, events)


def _show_run(run: Run, *, models: Mapping[str, str], url: str) -> None:
    table = new_table("run", run.id)
    rows: list[tuple[str, object]] = [
        ("kind", run.kind.value),
        ("algorithm", run.algorithm),
        ("seed", run.seed),
        ("started", ago(run.created_at)),
        ("took", duration((run.finished_at or run.updated_at) - run.created_at)),
        ("checkpoint", f"step {run.checkpoint.step}: {run.checkpoint.path}" if run.checkpoint else None),
        ("error", run.error),
    ]
    table.add_row("status", status_text(run.status.value))
    for name, value in rows:
        table.add_row(name, plain(value))
    for label, value in run.summary.items():
        table.add_row(plain(label), plain(summary_text(value)))
    for name, path in models.items():
        table.add_row(plain(f"model {name}"), plain(path))
    show(table)
    if run.status in _RESUMABLE:
        show(f"\ngo on with: agl runs resume {run.id} --store {url}")


def _show_metrics(metrics: list[MetricPoint]) -> None:
    series: dict[str, list[float]] = {}
    for point in metrics:
        series.setdefault(point.name, []).append(point.value)
    if not series:
        return
    from agentlightning._progress import sparkline

    table = new_table("metric", "first", "last", "lowest", "highest", "steps", "")
    for name, values in series.items():
        cells = (values[0], values[-1], min(values), max(values), len(values))
        table.add_row(plain(name), *(plain(number(cell)) for cell in cells), sparkline(values[-40:]))
    show("", table)


def _show_events(run: Run, events: list[RunEvent]) -> None:
    """The newest events but the pipeline's, of which there is one a step."""
    told = [event for event in events if event.kind != PIPELINE_EVENT]
    if told:
        table = new_table("when", "event", "")
        for event in told[-_EVENTS:]:
            table.add_row(plain(ago(event.time)), plain(event.kind), plain(event.message))
        show("", table)
    if len(told) > _EVENTS:
        show(plain(f"… {len(told) - _EVENTS} earlier events (--json has all)"))
    if len(told) < len(events):
        show(plain(f"\nwhat became of its rollouts: agl pipeline show {run.id}"))


@command.command("resume")
@click.argument("run_id", metavar="RUN")
@store_option
@quiet_option
@json_option
@click.pass_obj
def resume_run(shared: Shared, *, run_id: str, store: str | None, quiet: bool, as_json: bool) -> int:
    """Go on with an interrupted or stopped run, from its last checkpoint."""
    from agentlightning.jobs import resume_run as resume

    url = store or shared.store

    async def job(opened: Store) -> Run:
        return await find_run(opened, run_id)

    run = with_store(url, job)
    if run.status not in _RESUMABLE:
        raise ConfigError(
            f"run {run.id} is {run.status.value}; only interrupted and stopped runs can be resumed"
        )
    as_json = as_json or shared.as_json
    with aside(as_json):
        result = resume(store_url(url), run.id, observers=listeners(quiet=quiet))
    return show_training(result, as_json=as_json)


@command.command("stop")
@click.argument("run_id", metavar="RUN")
@store_option
@json_option
@click.pass_obj
def stop_run(shared: Shared, *, run_id: str, store: str | None, as_json: bool) -> None:
    """Ask a running run to stop at its next checkpoint; it can be resumed."""

    async def job(opened: Store) -> Run:
        run = await find_run(opened, run_id)
        if run.status is not RunStatus.RUNNING:
            raise ConfigError(f"run {run.id} is {run.status.value}; only a running run can be stopped")
        await opened.runs.request_stop(run.id)
        return run

    run = with_store(store or shared.store, job)
    if as_json or shared.as_json:
        print_json({"run_id": run.id, "stop_requested_at": time.time()})
        return
    show(f"run {run.id} was asked to stop; it does so at its next checkpoint")


def _evaluations(summary: Mapping[str, Json]) -> str:
    """Means of the evaluations in order: `before 0.31 → after 0.94`."""
    means = [
        f"{label} {MISSING if math.isnan(mean) else f'{mean:.3g}'}"
        for label, value in summary.items()
        if (mean := mean_of(value)) is not None
    ]
    return " → ".join(means)
