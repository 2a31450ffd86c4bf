"""Numbers of policy versions: each names one set of weights for ever, whichever process of a run gives it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from agentlightning import semconv
from agentlightning.errors import EngineError, StoreUnavailable
from agentlightning.store import RolloutQuery, SpanQuery, Store
from agentlightning.types import Json, PolicyLineage, RunEvent, Span

__all__ = ["Versions", "highest_seen", "lineage_of", "loading"]

_FILE: Final = "policy-version"
_PAGE: Final = 1_000
WEIGHTS_EVENT: Final = "weights"
"""Kind of the events that tell of weights which were loaded."""
_CALLS: Final = (semconv.OPERATION_CHAT, semconv.OPERATION_COMPLETION)
"""Other operations have other versions: a decision's is that of its policy."""


class Versions:
    """Gives out the versions of one run.

    Spans say which version sampled them, staleness is a difference of versions, and servers know adapters and caches by
    them. So a number is never given twice, and never a lower one after a higher: weights that come back, from a
    checkpoint or because newer ones were worse, get a new number, and so do those that a process begins with which goes
    on with a run. Whoever serves takes a number before it serves other weights.

    Args:
        directory: Of the run; the newest number is kept there in a file `policy-version`. None keeps it nowhere.

    Attributes:
        newest: The highest that was given; -1 if none was.

    Raises:
        EngineError: The file is damaged.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._path = directory / _FILE if directory else None
        self.newest = _read(self._path) if self._path else -1

    def following(self, *, least: int = 0) -> int:
        """The next number, above all before. Others see it when it is returned, whatever becomes of this process.

        Args:
            least: It is this or more: weights that were saved under a higher number keep it.

        Raises:
            StoreUnavailable: It cannot be kept.
        """
        number = max(self.newest + 1, least)
        if self._path:
            _write(self._path, number)
        self.newest = number
        return number

    def skip(self, highest: int) -> None:
        """Numbers up to this one were given elsewhere."""
        if highest > self.newest:
            self.following(least=highest)


def loading(version: int, *, was: int | None) -> Mapping[str, Json]:
    """What the event says that tells of weights which were loaded under a version.

    Args:
        version: The number they were given.
        was: The number they had had in the same run; None if they had none.
    """
    return {"version": version, "was": was}


def lineage_of(events: Sequence[RunEvent]) -> PolicyLineage:
    """Which versions of a run were loaded, by its events."""
    loaded: dict[int, int | None] = {}
    for event in events:
        version, was = event.data.get("version"), event.data.get("was")
        if event.kind == WEIGHTS_EVENT and isinstance(version, int):
            loaded[version] = was if isinstance(was, int) else None
    return PolicyLineage(loaded=loaded)


async def highest_seen(store: Store, run_id: str) -> int:
    """The highest version that calls of a run were recorded with; -1 if there is none. Reads all of its calls."""
    highest = -1
    rollouts: str | None = None
    while True:
        found = await store.rollouts.list(RolloutQuery(run_id=run_id), limit=_PAGE, cursor=rollouts)
        ids = tuple(one.id for one in found.items)
        query = SpanQuery(rollout_ids=ids, operations=_CALLS, include_late=True)
        spans: str | None = None
        while ids:
            page = await store.spans.page(query, limit=_PAGE, cursor=spans)
            highest = max([highest, *(version for span in page.items for version in _of(span))])
            spans = page.cursor
            if spans is None:
                break
        rollouts = found.cursor
        if rollouts is None:
            return highest


def _of(span: Span) -> Iterator[int]:
    version = span.attributes.get(semconv.POLICY_VERSION)
    if isinstance(version, int):
        yield version
    for record in span.tokens:
        yield record.version
        yield from array("i", record.versions)


def _read(path: Path) -> int:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return -1
    if not text:  # a machine that lost its power kept the name alone
        return -1
    if not text.strip().isdecimal():
        raise EngineError(
            f"{str(path)!r} is to hold the highest policy version of the run, and holds {text[:40]!r}; write a number "
            "into it that is above all that the run's calls were recorded with"
        )
    return int(text)


def _write(path: Path, number: int) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(f"{number}\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise StoreUnavailable(
            f"policy version {number} cannot be kept in {str(path)!r} ({error.strerror or error}); free some space and "
            "resume the run"
        ) from error
