"""`agl pipeline`: the stages there are, and what each of them did in a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click
import msgspec

from agentlightning.cli._options import Shared, json_option, store_option
from agentlightning.cli._output import new_table, number, plain, print_json, show
from agentlightning.cli._stores import find_run, with_store
from agentlightning.errors import AglError, NotFound
from agentlightning.plugins import load_plugins
from agentlightning.store import Store
from agentlightning.types import Run, RunEvent, RunKind, StageReport

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

PIPELINE_EVENT: Final = "pipeline"
"""Kind of the events that the stages' reports are in, one a step."""
_IDS: Final = 3


@click.group("pipeline", invoke_without_command=True)
@store_option
@json_option
@click.pass_context
def command(context: click.Context, *, store: str | None, as_json: bool) -> None:
    """How spans become experience: the stages, and what went in, out and why in a run.

    Without a subcommand, lists the stages.
    """
    context.obj = Shared(store, as_json)
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@command.command("list")
@json_option
@click.pass_obj
def list_stages(shared: Shared, *, as_json: bool) -> None:
    """List the installed stages in order; those that are not in the default pipeline join when they are configured."""
    _list(as_json=as_json or shared.as_json)


def _list(*, as_json: bool) -> None:
    specs = sorted(load_plugins().stages().values(), key=lambda spec: (spec.order, spec.name))
    if as_json:
        print_json(specs)
        return
    table = new_table("order", "stage", "default", "what it does")
    for spec in specs:
        table.add_row(
            number(spec.order), plain(spec.name), plain("yes" if spec.default else ""), plain(spec.summary)
        )
    show(table)


@command.command("show")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option(
    "--step", type=click.IntRange(min=0), help="Only this step; without it all steps are summed up."
)
@store_option
@json_option
@click.pass_obj
def show_pipeline(
    shared: Shared, *, run_id: str | None, step: int | None, store: str | None, as_json: bool
) -> None:
    """Show what each stage was given, made of it, and left out and why. RUN is an id or its start; else the newest."""

    async def job(opened: Store) -> tuple[Run, list[RunEvent]]:
        run = await find_run(opened, run_id)
        return run, await opened.runs.events(run.id)

    run, events = with_store(store or shared.store, job)
    by_step = {number: reports for number, reports in _reports(events) if step in (None, number)}
    if not by_step:
        raise NotFound(_nothing(run, step))
    if as_json or shared.as_json:
        print_json({"run": run.id, "steps": [{"step": at, "stages": of} for at, of in by_step.items()]})
        return
    stages = summed(by_step.values())
    steps = f"step {next(iter(by_step))}" if len(by_step) == 1 else f"{len(by_step)} steps summed up"
    show(f"run {run.id}, {steps}\n", _counts(stages))
    reasons = [one for one in stages if one.dropped or one.remarks]
    if reasons:
        show("", _reasons(reasons))


def _reports(events: Iterable[RunEvent]) -> Iterable[tuple[int, list[StageReport]]]:
    """Reports by step; a step that was done again after the run was resumed counts once, the last time."""
    for event in events:
        if event.kind == PIPELINE_EVENT:
            try:
                yield (
                    msgspec.convert(event.data.get("step"), int),
                    msgspec.convert(event.data.get("stages"), list[StageReport]),
                )
            except msgspec.ValidationError as error:
                raise AglError(
                    f"a pipeline report of the run cannot be read: {error}; was it written by another version?"
                ) from error


def summed(steps: Iterable[Sequence[StageReport]]) -> list[StageReport]:
    """One report per stage, in the order in which stages first appear; of ids the first few."""
    totals: dict[str, StageReport] = {}
    for reports in steps:
        for one in reports:
            before = totals.get(one.stage)
            totals[one.stage] = one if before is None else _sum(before, one)
    return list(totals.values())


def _sum(one: StageReport, other: StageReport) -> StageReport:
    reasons = sorted(one.ids.keys() | other.ids.keys())
    return StageReport(
        stage=one.stage,
        before=_added(one.before, other.before),
        after=_added(one.after, other.after),
        dropped=_added(one.dropped, other.dropped),
        remarks=_added(one.remarks, other.remarks),
        ids={reason: (*one.ids.get(reason, ()), *other.ids.get(reason, ()))[:_IDS] for reason in reasons},
    )


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _counts(stages: Sequence[StageReport]) -> Table:
    """How much was there before the first stage and after each; what a stage changed stands out."""
    found = [name for name in stages[0].before if any(one.before[name] or one.after[name] for one in stages)]
    table = new_table("stage", *found, "left out")
    table.add_row(plain("captured"), *(number(stages[0].before[name]) for name in found), "")
    for one in stages:
        cells = [_changed(one.before.get(name, 0), one.after.get(name, 0)) for name in found]
        table.add_row(
            plain(one.stage), *cells, plain(number(total) if (total := sum(one.dropped.values())) else " ")
        )
    return table


def _changed(before: int, after: int) -> Text:
    text = plain(number(after))
    text.stylize("dim" if before == after else "bold")
    return text


def _reasons(stages: Sequence[StageReport]) -> Table:
    table = new_table("stage", "left out", "noticed", "why", "such as")
    for one in stages:
        for reason in {**one.dropped, **one.remarks}:
            left_out, noticed = one.dropped.get(reason), one.remarks.get(reason)
            table.add_row(
                plain(one.stage),
                plain(number(left_out) if left_out else " "),
                plain(number(noticed) if noticed else " "),
                plain(reason),
                plain(", ".join(one.ids.get(reason, ())) or " "),
            )
    return table


def _nothing(run: Run, step: int | None) -> str:
    if run.kind is RunKind.EVALUATE:
        return (
            f"run {run.id} has made no experience yet, nor will it, as it is an evaluation; "
            "name a run of training, one that `agl runs` lists"
        )
    if step is None:
        return f"run {run.id} has made no experience yet; its pipeline runs once its first rollouts have finished"
    return f"run {run.id} has no pipeline report of step {step}; see: agl pipeline show {run.id}"
