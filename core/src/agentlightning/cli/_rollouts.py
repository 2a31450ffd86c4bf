"""`agl rollouts`: list rollouts, and show one as a tree."""

from __future__ import annotations

import click

from agentlightning.cli._options import Shared, json_option, store_option
from agentlightning.cli._output import (
    ago,
    duration,
    new_table,
    plain,
    print_json,
    shortened,
    show,
    status_text,
)
from agentlightning.cli._stores import choose_attempt, find_run, outcomes, spans_of, with_store
from agentlightning.cli._trace import rewards_text, trace_tree
from agentlightning.errors import NotFound
from agentlightning.store import RolloutQuery, Store
from agentlightning.types import Attempt, Mode, Rollout, RolloutStatus, Span

_PREFIX_SEARCH = 1_000


@click.group("rollouts", invoke_without_command=True)
@store_option
@json_option
@click.pass_context
def command(context: click.Context, *, store: str | None, as_json: bool) -> None:
    """What the agent did; without a subcommand, lists the newest rollouts.

    A rollout is named by its id or the start of it.
    """
    context.obj = Shared(store, as_json)
    if context.invoked_subcommand is None:
        _list(store, RolloutQuery(newest_first=True), run=None, as_json=as_json, limit=20)


@command.command("list")
@click.option("--run", metavar="RUN", help="Only rollouts of this run.")
@click.option("--status", "statuses", multiple=True, type=click.Choice([one.value for one in RolloutStatus]))
@click.option("--mode", type=click.Choice([one.value for one in Mode]))
@click.option("--group", metavar="GROUP", help="Only rollouts of this group.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Most to list.")
@store_option
@json_option
@click.pass_obj
def list_rollouts(
    shared: Shared,
    *,
    run: str | None,
    statuses: tuple[str, ...],
    mode: str | None,
    group: str | None,
    limit: int,
    store: str | None,
    as_json: bool,
) -> None:
    """List rollouts, newest first."""
    query = RolloutQuery(
        statuses=tuple(RolloutStatus(one) for one in statuses) or None,
        mode=Mode(mode) if mode else None,
        group=group,
        newest_first=True,
    )
    _list(store or shared.store, query, run=run, as_json=as_json or shared.as_json, limit=limit)


def _list(store: str | None, query: RolloutQuery, *, run: str | None, as_json: bool, limit: int) -> None:
    import msgspec

    async def job(opened: Store) -> tuple[tuple[Rollout, ...], dict[str, dict[str, float]]]:
        run_id = (await find_run(opened, run)).id if run else None
        page = await opened.rollouts.list(msgspec.structs.replace(query, run_id=run_id), limit=limit)
        rewards = await opened.spans.rewards([rollout.id for rollout in page.items])
        return page.items, outcomes(rewards)

    rollouts, rewards = with_store(store, job)
    if as_json:
        print_json([{"rollout": one, "rewards": rewards.get(one.id, {})} for one in rollouts])
        return
    if not rollouts:
        show("no rollouts here")
        return
    table = new_table("id", "status", "mode", "step", "task", "reward", "attempts", "when", "took")
    for one in rollouts:
        table.add_row(
            plain(one.id),
            status_text(one.status.value),
            plain(one.mode.value),
            plain(one.metadata.get("step")),
            plain(shortened(one.task, 48)),
            rewards_text(rewards.get(one.id, {})),
            plain(one.attempts),
            plain(ago(one.created_at)),
            plain(duration(one.finished_at - one.created_at if one.finished_at else None)),
        )
    show(table)


@command.command("show")
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; else the successful or newest.")
@store_option
@json_option
@click.pass_obj
def show_rollout(
    shared: Shared, *, rollout_id: str | None, attempt: int | None, store: str | None, as_json: bool
) -> None:
    """Show a rollout as a tree: messages, tool calls, rewards. Without ROLLOUT, the newest."""

    async def job(opened: Store) -> tuple[Rollout, list[Attempt], Attempt | None, list[Span]]:
        return await read_rollout(opened, rollout_id, attempt=attempt)

    rollout, attempts, chosen, spans = with_store(store or shared.store, job)
    show_trace(rollout, attempts=attempts, chosen=chosen, spans=spans, as_json=as_json or shared.as_json)


async def read_rollout(
    store: Store, rollout_id: str | None, *, attempt: int | None = None
) -> tuple[Rollout, list[Attempt], Attempt | None, list[Span]]:
    """A rollout with its attempts, the one to show, and that one's spans."""
    rollout = await _find_rollout(store, rollout_id)
    attempts = await store.rollouts.attempts([rollout.id])
    chosen = choose_attempt(attempts, attempt)
    return rollout, attempts, chosen, await spans_of(store, chosen.id) if chosen else []


def show_trace(
    rollout: Rollout, *, attempts: list[Attempt], chosen: Attempt | None, spans: list[Span], as_json: bool
) -> None:
    """Prints a rollout as a tree, or as JSON."""
    if as_json:
        print_json({"rollout": rollout, "attempts": attempts, "spans": spans})
        return
    show(trace_tree(rollout, attempt=chosen, spans=spans))
    others = [one for one in attempts if one is not chosen]
    for one in others:
        reason = f": {one.failure.message}" if one.failure else ""
        show(
            plain(f"attempt {one.sequence} {one.status.value}{reason} (see it with --attempt {one.sequence})")
        )


async def _find_rollout(store: Store, text: str | None) -> Rollout:
    if text is not None:
        try:
            return await store.rollouts.get(text)
        except NotFound:
            pass
    page = await store.rollouts.list(RolloutQuery(newest_first=True), limit=_PREFIX_SEARCH if text else 1)
    found = [rollout for rollout in page.items if rollout.id.startswith(text or "")]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"there is no rollout {text!r} in {store.url!r}; list them with: agl rollouts")
    raise NotFound(f"{len(found)} rollouts start with {text!r}; write more of the id")
