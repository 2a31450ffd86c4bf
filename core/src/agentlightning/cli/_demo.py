"""`agl demo`: trains a real agent on this machine and shows that it got better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from agentlightning.cli._options import json_option, quiet_option
from agentlightning.cli._output import duration, new_table, number, plain, print_json, show
from agentlightning.cli._results import listeners
from agentlightning.cli._rollouts import read_rollout
from agentlightning.cli._stores import outcomes, with_store
from agentlightning.cli._trace import trace_tree
from agentlightning.store import Store

if TYPE_CHECKING:
    from agentlightning.demo import DemoReport
    from agentlightning.trainer import TrainingResult


@click.command("demo")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Two runs with one seed give the same numbers."
)
@click.option(
    "--directory", default="agl-demo", show_default=True, metavar="DIR", help="Where everything goes."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="The gateway's port; 0: a free one.")
@quiet_option
@json_option
def command(*, seed: int, directory: str, port: int, quiet: bool, as_json: bool) -> None:
    """Train a tool-using agent on this machine's CPU, and show that it got better.

    The agent is written with the plain OpenAI SDK and knows nothing of training. No key, no GPU and no network needed.
    """
    from agentlightning.demo import run_demo

    report, result = run_demo(seed=seed, directory=directory, port=port, observers=listeners(quiet=quiet))
    if as_json:
        print_json(report)
        return
    _show_transcripts(result)
    _show_report(report, result)


def _show_report(report: DemoReport, result: TrainingResult) -> None:
    table = new_table("held-out tasks", "success", "95 % interval", "n")
    for label, score in (("before", report.before), ("after", report.after)):
        band = f"{score.low:.3f} to {score.high:.3f}"
        table.add_row(label, plain(f"{score.mean:.3f}"), plain(band), plain(score.n))
    show("", table)
    decoding = _field(result, "after", "decoding") or "as the agent asks"
    show(
        plain(f"decoding before and after: {decoding}"),
        plain(
            f"{number(report.rollouts)} rollouts, {report.updates} updates, {number(report.tokens)} tokens "
            f"in {duration(report.seconds)}"
        ),
        plain(f"store       {report.store}"),
        plain(f"checkpoints {result.directory}"),
        plain(f"next        agl rollouts --store {report.store}"),
        plain(f"            agl runs show {report.run_id} --store {report.store}"),
    )


def _show_transcripts(result: TrainingResult) -> None:
    """One held-out task that was failed before and solved after, both times as a tree."""
    before, after = (_field(result, label, "rollout_ids") for label in ("before", "after"))
    if not isinstance(before, list) or not isinstance(after, list):
        return

    async def job(store: Store) -> None:
        pairs = list(zip(map(str, before), map(str, after), strict=False))
        rewards = outcomes(await store.spans.rewards([one for pair in pairs for one in pair]))
        scored = [
            (sum(rewards.get(a, {}).values()) - sum(rewards.get(b, {}).values()), b, a) for b, a in pairs
        ]
        if not scored:
            return
        _, *pair = max(scored, key=lambda one: one[0])
        for label, rollout_id in zip(("before", "after"), pair, strict=True):
            rollout, _, chosen, spans = await read_rollout(store, str(rollout_id))
            show(plain(f"\n{label} training"), trace_tree(rollout, attempt=chosen, spans=spans))

    with_store(result.store, job)


def _field(result: TrainingResult, label: str, name: str) -> object:
    found = result.summary.get(label)
    return found.get(name) if isinstance(found, Mapping) else None
