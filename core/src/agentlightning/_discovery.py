"""Which plugins are installed, and which of them are wanted, decided before any of them is imported."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from agentlightning.errors import ConfigError, PluginConflict, PluginNotFound

CORE = "core"
"""Name of the plugin that brings the built-in parts: always on."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An installed plugin that was not imported yet.

    Attributes:
        distribution: Distribution that installed it; empty if its metadata does not say.
        named: The user asked for it by name, so that a failure is an error.
        excluded: Why it is left out; empty if it is wanted.
    """

    name: str
    entry_point: EntryPoint
    distribution: str
    version: str
    named: bool
    excluded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which plugins the user wants.

    Attributes:
        names: Exact list; None is every installed one.
        disabled: Deny list; it wins over `names`.
    """

    names: frozenset[str] | None
    disabled: frozenset[str]

    @classmethod
    def of(
        cls, *, names: Sequence[str] | None, disable: Sequence[str] | None, environ: Mapping[str, str]
    ) -> Selection:
        """Takes what is given, else `AGL_PLUGINS` and `AGL_DISABLE`.

        Raises:
            ConfigError: It denies the core plugin.
        """
        if names is None and environ.get("AGL_PLUGINS", "").strip():
            names = _split(environ["AGL_PLUGINS"])
        if disable is None:
            disable = _split(environ.get("AGL_DISABLE", ""))
        if CORE in disable:
            raise ConfigError(f"the plugin {CORE!r} cannot be disabled; take it out of AGL_DISABLE")
        return cls(names=None if names is None else frozenset(names), disabled=frozenset(disable))

    def excludes(self, name: str) -> str:
        """Why a plugin is left out; empty if it is wanted."""
        if name in self.disabled:
            return "disabled by AGL_DISABLE"
        if self.names is not None and name not in self.names and name != CORE:
            return "not among AGL_PLUGINS"
        return ""


def discover(entry_points: Iterable[EntryPoint], selection: Selection) -> list[Candidate]:
    """Lists installed plugins, core first, then by name; those left out carry the reason.

    Raises:
        PluginNotFound: A plugin was asked for by name and is not installed.
        PluginConflict: Two wanted plugins have one name.
    """
    found = [_candidate(entry_point, selection) for entry_point in entry_points]
    _check_names({candidate.name for candidate in found}, selection)
    wanted: dict[str, Candidate] = {}
    for candidate in found:
        if candidate.excluded:
            continue
        first = wanted.setdefault(candidate.name, candidate)
        if first is not candidate:
            raise PluginConflict(
                f"two plugins are called {candidate.name!r}: one from {first.distribution!r}, one from "
                f"{candidate.distribution!r}; uninstall one, or set AGL_DISABLE={candidate.name} to use neither"
            )
    return sorted(
        found, key=lambda candidate: (candidate.name != CORE, candidate.name, candidate.distribution)
    )


def _candidate(entry_point: EntryPoint, selection: Selection) -> Candidate:
    distribution = entry_point.dist
    return Candidate(
        name=entry_point.name,
        entry_point=entry_point,
        distribution=distribution.name if distribution else "",
        version=distribution.version if distribution else "",
        named=entry_point.name == CORE or entry_point.name in (selection.names or ()),
        excluded=selection.excludes(entry_point.name),
    )


def _check_names(installed: set[str], selection: Selection) -> None:
    for name in sorted((selection.names or frozenset()) - installed):
        raise PluginNotFound(f"no installed plugin is called {name!r}; {_suggest(name, installed)}")
    for name in sorted(selection.disabled - installed):
        _log.warning(
            "AGL_DISABLE names %r, but no such plugin is installed; %s", name, _suggest(name, installed)
        )


def _suggest(name: str, installed: set[str]) -> str:
    near = difflib.get_close_matches(name, installed, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"installed are {', '.join(sorted(installed)) or 'none'}"


def _split(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]
