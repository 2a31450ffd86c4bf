"""`agl trim`: delete the oldest rollouts of a store."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from agentlightning.cli._options import json_option, store_option
from agentlightning.cli._quantities import parse_duration, parse_size, size_text
from agentlightning.errors import ConfigError

if TYPE_CHECKING:
    from agentlightning.store import Retention, Statistics, Store
    from agentlightning.types import RolloutStatus

_PAGE = 1_000


@click.command("trim")
@click.option("--older-than", metavar="TIME", help="Rollouts that ended longer ago go: 30d, 12h.")
@click.option("--keep", type=click.IntRange(0), metavar="N", help="Only the newest N stay.")
@click.option("--max-size", metavar="SIZE", help="Oldest go until spans take no more: 10GB, 512MiB.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@store_option
@json_option
def command(
    *,
    older_than: str | None,
    keep: int | None,
    max_size: str | None,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Delete the oldest rollouts that are over, with their attempts and spans.

    What a run that is not over may need is never deleted; runs, their metrics and resource sets stay. There is no
    way back: `agl export` first what you may want again.
    """
    from agentlightning.cli._output import plain, print_json, show
    from agentlightning.cli._stores import with_store
    from agentlightning.store import Retention

    retention = Retention(
        max_age_s=None if older_than is None else parse_duration(older_than),
        max_rollouts=keep,
        max_bytes=None if max_size is None else parse_size(max_size),
    )
    if retention == Retention():
        raise ConfigError("say what goes: --older-than 30d, --keep N or --max-size 10GB")
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise ConfigError("trim deletes for good, and nobody can be asked here; add --yes")
        show(*map(plain, with_store(store, lambda opened: _preview(opened, retention))))
        click.confirm("delete this?", abort=True)
    trimmed = with_store(store, lambda opened: opened.trim(retention))
    if as_json:
        print_json(trimmed)
        return
    show(
        plain(
            f"deleted {trimmed.rollouts:,} rollouts with {trimmed.spans:,} spans ({size_text(trimmed.size_bytes)})"
        )
    )


async def _preview(store: Store, retention: Retention) -> list[str]:
    """What would go, in lines: an upper bound, because what unfinished runs need stays."""
    found = await store.statistics()
    terminal = sum(found.rollouts[status] for status in _terminal())
    lines = [
        f"{store.url} has {terminal:,} rollouts that are over, and {size_text(found.span_bytes)} of spans"
    ]
    lines += await _excess(store, retention, terminal=terminal, found=found)
    return [*lines, "what unfinished runs need stays"]


async def _excess(store: Store, retention: Retention, *, terminal: int, found: Statistics) -> list[str]:
    lines: list[str] = []
    if retention.max_age_s is not None:
        old = await _older(store, retention.max_age_s)
        lines.append(f"{old:,} rollouts are too old")
    if retention.max_rollouts is not None:
        lines.append(f"{max(0, terminal - retention.max_rollouts):,} rollouts are too many")
    if retention.max_bytes is not None:
        lines.append(f"{size_text(max(0, found.span_bytes - retention.max_bytes))} of spans are too much")
    return lines


async def _older(store: Store, age_s: float) -> int:
    from agentlightning.store import RolloutQuery

    before, query = time.time() - age_s, RolloutQuery(statuses=_terminal())
    count, cursor = 0, None
    while True:
        page = await store.rollouts.list(query, limit=_PAGE, cursor=cursor)
        count += sum((one.finished_at or 0.0) < before for one in page.items)
        cursor = page.cursor
        if cursor is None:
            return count


def _terminal() -> tuple[RolloutStatus, ...]:
    from agentlightning.store.lifecycle import rollout_ended
    from agentlightning.types import RolloutStatus

    return tuple(status for status in RolloutStatus if rollout_ended(status))
