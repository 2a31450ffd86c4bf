"""What training, evaluation and the demo came to, for people and for machines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from agentlightning.cli._exit import ExitCode
from agentlightning.cli._output import (
    MISSING,
    new_table,
    number,
    plain,
    print_json,
    shortened,
    show,
    status_text,
)
from agentlightning.types import Json, ResourceSet, RunStatus, Weights

if TYPE_CHECKING:
    from agentlightning.algorithm import EvaluationReport
    from agentlightning.trainer import TrainingResult

_MOST_TASKS: Final = 20
"""Tasks of an evaluation that are listed."""


def listeners(*, quiet: bool, configured: Sequence[str] = ()) -> list[str]:
    """The progress view, unless it is not wanted or configured already."""
    return [] if quiet or "progress" in configured else ["progress"]


def show_training(result: TrainingResult, *, as_json: bool) -> int:
    """Prints what a run came to, and says what to exit with."""
    code = ExitCode.OK if result.status is RunStatus.SUCCEEDED else ExitCode.PARTIAL
    best = {"id": result.best.id, "version": result.best.version} if result.best else None
    models = models_of(result.best)
    if as_json:
        print_json(
            {
                "run_id": result.run_id,
                "status": result.status,
                "store": result.store,
                "directory": result.directory,
                "summary": result.summary,
                "best": best,
                "models": models,
            }
        )
        return code
    table = new_table("run", result.run_id)
    table.add_row("status", status_text(result.status.value))
    for label, value in result.summary.items():
        table.add_row(plain(label), plain(summary_text(value)))
    table.add_row("best", plain(f"resources {best['id']}, version {best['version']}" if best else None))
    for name, path in models.items():
        table.add_row(plain(f"model {name}"), plain(path))
    table.add_row("store", plain(result.store))
    table.add_row("files", plain(result.directory))
    show(table, plain(f"\nlook closer with: agl runs show {result.run_id} --store {result.store}"))
    return code


def models_of(found: ResourceSet | None) -> dict[str, str]:
    """Directories of the trained models of a resource set, by the name of the resource."""
    resources = found.resources if found else {}
    return {
        name: str(record.value["path"]) for name, record in resources.items() if record.kind == Weights.kind
    }


def show_evaluation(
    report: EvaluationReport, *, tasks: Sequence[Json], store: str, as_json: bool, cause: str = ""
) -> int:
    """Prints an evaluation, with the cause of what has no outcome, and says what to exit with."""
    if as_json:
        print_json(report)
    else:
        _show_tasks(report, tasks)
        band = f"{report.mean:.3f}  [{report.low:.3f}, {report.high:.3f}]" if report.n else MISSING
        show(plain(f"\nmean {band}  on {report.n} of {len(report.outcomes)} tasks, {report.decoding}"))
        if report.failures:
            found = ", ".join(f"{kind} {count}" for kind, count in report.failures.items())
            show(plain(f"no outcome: {found} (they do not count as 0)"))
        if cause:
            show(plain(f"the first: {cause}"))
        if report.rollout_ids:
            (closer, *_) = *without_outcome(report), report.rollout_ids[0]
            show(plain(f"look closer with: agl rollouts show {closer} --store {store}"))
    if not report.n:
        return ExitCode.FAILED
    return ExitCode.PARTIAL if report.failures else ExitCode.OK


def without_outcome(report: EvaluationReport) -> list[str]:
    """Ids of the rollouts that have no outcome."""
    pairs = zip(report.rollout_ids, report.outcomes, strict=False)
    return [rollout_id for rollout_id, outcome in pairs if outcome is None]


def _show_tasks(report: EvaluationReport, tasks: Sequence[Json]) -> None:
    """The worst tasks first, at most twenty."""
    rows = list(zip(tasks, report.outcomes, report.rollout_ids, strict=False))
    rows.sort(key=lambda row: (row[1] is not None, row[1] or 0.0))
    table = new_table("task", "outcome", "id")
    for task, outcome, rollout_id in rows[:_MOST_TASKS]:
        table.add_row(plain(shortened(task)), plain(number(outcome)), plain(rollout_id))
    show(table)
    if len(rows) > _MOST_TASKS:
        show(plain(f"… {len(rows) - _MOST_TASKS} better ones (--json has all)"))


def mean_of(value: Json) -> float | None:
    """The mean of a value of a run's summary that is an evaluation; NaN if no task has an outcome; else None."""
    if not isinstance(value, Mapping):
        return None
    mean = value.get("mean")
    if not isinstance(mean, int | float):
        return None
    return mean if value.get("n", 1) else math.nan


def summary_text(value: Json) -> str:
    """A value of a run's summary on one line."""
    mean = mean_of(value)
    if not isinstance(value, Mapping):
        return number(value)
    if mean is None:
        return shortened(msgspec.json.encode(value).decode(), 100)
    if math.isnan(mean):
        return f"no task has an outcome: {value.get('failures') or MISSING}"
    low, high = (
        f"{bound:.3f}" if isinstance(bound, float) else MISSING
        for bound in (value.get("low"), value.get("high"))
    )
    text = f"{mean:.3f} [{low}, {high}] on {value.get('n')} tasks"
    failures = value.get("failures")
    extra = f", no outcome: {failures}" if failures else ""
    return f"{text}, {value.get('decoding') or 'decoding unknown'}{extra}"
