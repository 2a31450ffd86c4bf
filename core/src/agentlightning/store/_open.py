"""`open_store`: from a URL to a store."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from agentlightning.errors import ConfigError
from agentlightning.store._memory_store import MemoryStore
from agentlightning.store._protocols import Store
from agentlightning.store._sqlite_store import DURABILITIES, SqliteStore


def open_store(url: str, *, schemes: Mapping[str, Callable[[str], Store]] | None = None) -> Store:
    """Makes the store that a URL names; `async with` opens it.

    Args:
        url: `memory://`, `sqlite:///relative/file.db`, `sqlite:////absolute/file.db`, or what a plugin takes.
            `?durability=full` lets what SQLite acknowledged survive a power loss, too.
        schemes: Further backends by URL scheme, as the plugins facade knows them.

    Raises:
        ConfigError: The URL has no scheme, an unknown one, or parameters that its backend does not have.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"a store is named by a URL, got {url!r}; for a file, write 'sqlite:///{url}'")
    if scheme == "memory":
        return _memory(url, rest)
    if scheme == "sqlite":
        return _sqlite(url, rest)
    further = dict(schemes or {})
    if scheme in further:
        return further[scheme](url)
    known = sorted({"memory", "sqlite", *further})
    near = difflib.get_close_matches(scheme, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}; others come with plugins"
    raise ConfigError(f"no store has the URL scheme {scheme!r} of {url!r}; {hint}")


def _memory(url: str, rest: str) -> MemoryStore:
    if rest.strip("/"):
        raise ConfigError(
            f"'memory://' takes no path or parameters, got {url!r}; for a file, use 'sqlite:///FILE'"
        )
    return MemoryStore()


def _sqlite(url: str, rest: str) -> SqliteStore:
    location, _, query = rest.partition("?")
    if not location.startswith("/") or location in {"/", "/:memory:"}:
        raise ConfigError(
            f"{url!r} names no file; write 'sqlite:///relative.db', 'sqlite:////absolute.db' or 'memory://'"
        )
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    durability = parameters.pop("durability", "normal")
    if parameters:
        raise ConfigError(
            f"{url!r} has the unknown parameter {next(iter(parameters))!r}; there is 'durability'"
        )
    if durability not in DURABILITIES:
        raise ConfigError(f"{url!r}: durability is {' or '.join(DURABILITIES)}, got {durability!r}")
    return SqliteStore(Path(location[1:]), durability=durability)
