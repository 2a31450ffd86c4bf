"""What commands ask of a store: an open one, a run by its id or the start of it, spans of an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from agentlightning._owner import judged
from agentlightning.cli._options import store_url
from agentlightning.errors import ConfigError, NotFound
from agentlightning.plugins import Plugins, load_plugins
from agentlightning.specs import StoreSpec
from agentlightning.store import SpanQuery, Store, open_store
from agentlightning.types import Attempt, AttemptStatus, Reward, Run, Span

_Result = TypeVar("_Result")
_RECENT = 1_000


def with_store(option: str | None, job: Callable[[Store], Awaitable[_Result]]) -> _Result:
    """Opens the store that the option or the configuration names, and runs a job on it.

    Raises:
        ConfigError: There is no such store: looking must not create one.
    """
    url = store_url(option)
    _check_exists(url)

    async def run() -> _Result:
        async with store_at(url, load_plugins()) as store:
            return await job(store)

    return asyncio.run(run())


def store_at(url: str, plugins: Plugins) -> Store:
    """The store of a URL, not opened yet, with the schemes that plugins bring.

    Raises:
        PluginNotFound: No plugin knows the scheme.
    """
    scheme, separator, _ = url.partition("://")
    if separator:
        plugins.find(StoreSpec, scheme)

    def opener(spec: StoreSpec) -> Callable[[str], Store]:
        def opened(address: str) -> Store:
            return cast("Callable[[str], Store]", plugins.load(spec))(address)

        return opened

    return open_store(url, schemes={name: opener(spec) for name, spec in plugins.stores().items()})


def _check_exists(url: str) -> None:
    scheme, _, rest = url.partition("://")
    path = rest.removeprefix("/").partition("?")[0]
    if scheme != "sqlite" or not path or path == ":memory:":
        return
    if Path(path).is_dir():
        raise ConfigError(f"{url!r} is a folder, and a store is a file in one; name it with --store URL")
    if not Path(path).exists():
        raise ConfigError(f"there is no store {url!r}; name one with --store URL, or train something first")


async def find_run(store: Store, text: str | None) -> Run:
    """A run by its id or the start of it; the newest if nothing is named.

    Raises:
        NotFound: There is none.
        ConfigError: Several ids start so.
    """
    runs = [judged(run) for run in await store.runs.list(limit=_RECENT)]
    if text is None:
        if not runs:
            raise NotFound(f"the store {store.url!r} has no runs")
        return runs[0]
    matching = [run for run in runs if run.id.startswith(text)]
    exact = [run for run in matching if run.id == text]
    if exact:
        return exact[0]
    if not matching:
        return judged(await store.runs.get(text))
    if len(matching) > 1:
        ids = ", ".join(run.id for run in matching[:5])
        raise ConfigError(f"{len(matching)} runs start with {text!r}: {ids}; write more of the id")
    return matching[0]


def choose_attempt(attempts: Sequence[Attempt], sequence: int | None) -> Attempt | None:
    """The attempt with that sequence; else the one that succeeded, else the newest.

    Raises:
        NotFound: There is no attempt of that sequence.
    """
    if sequence is not None:
        found = [attempt for attempt in attempts if attempt.sequence == sequence]
        if not found:
            raise NotFound(f"there is no attempt {sequence}; there are {[one.sequence for one in attempts]}")
        return found[0]
    succeeded = [attempt for attempt in attempts if attempt.status is AttemptStatus.SUCCEEDED]
    return next(reversed(succeeded or attempts), None)


async def spans_of(store: Store, attempt_id: str) -> list[Span]:
    """All spans of an attempt in order, late ones too."""
    query = SpanQuery(attempt_ids=(attempt_id,), include_late=True)
    spans: list[Span] = []
    cursor: str | None = None
    while True:
        page = await store.spans.page(query, cursor=cursor)
        spans += page.items
        cursor = page.cursor
        if cursor is None:
            return spans


def outcomes(rewards: Sequence[Reward]) -> dict[str, dict[str, float]]:
    """Rewards of whole attempts by rollout and dimension; the last one said counts."""
    found: dict[str, dict[str, float]] = {}
    for reward in rewards:
        if reward.target is None:
            found.setdefault(reward.rollout_id, {})[reward.dimension] = reward.value
    return found
