"""The plugins facade: discovery, isolation and typed access. The only file that imports pluggy."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Final, TypeVar, cast

import pluggy

from agentlightning._discovery import Candidate, Selection, discover
from agentlightning._install_hints import install_hint
from agentlightning._plugin_status import PluginState, PluginStatus, brief, described
from agentlightning._requirements import unmet
from agentlightning.errors import MissingExtra, PluginConflict, PluginError, PluginNotFound
from agentlightning.specs import (
    AdapterSpec,
    AlgorithmSpec,
    AppSpec,
    CommandSpec,
    EngineSpec,
    GraderSpec,
    LauncherSpec,
    ObserverSpec,
    ResourceSpec,
    Spec,
    StageSpec,
    StoreSpec,
)

if TYPE_CHECKING:
    from agentlightning.pipeline import Pipeline

__all__ = ["PluginState", "PluginStatus", "Plugins", "hookimpl", "hookspec", "kind_of", "load_plugins"]

PROJECT: Final = "agentlightning"
hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks a hook specification."""
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook."""

SpecT = TypeVar("SpecT", bound=Spec)

REGISTER_HOOKS: Final[Mapping[str, type[Spec]]] = {
    "agl_register_adapters": AdapterSpec,
    "agl_register_stages": StageSpec,
    "agl_register_graders": GraderSpec,
    "agl_register_algorithms": AlgorithmSpec,
    "agl_register_engines": EngineSpec,
    "agl_register_stores": StoreSpec,
    "agl_register_launchers": LauncherSpec,
    "agl_register_resources": ResourceSpec,
    "agl_register_observers": ObserverSpec,
    "agl_register_apps": AppSpec,
    "agl_register_commands": CommandSpec,
}
_CONFIGURE: Final = "agl_configure_pipeline"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    name: str
    plugin: object
    named: bool


def kind_of(spec: type[Spec]) -> str:
    """The word for a kind of spec: `algorithm` for `AlgorithmSpec`."""
    return spec.__name__.removesuffix("Spec").lower()


@dataclass(slots=True)
class Plugins:
    """Typed access to everything that plugins registered. Made by `load_plugins`."""

    _manager: pluggy.PluginManager
    _statuses: list[PluginStatus] = field(default_factory=list)
    _loaded: list[_Loaded] = field(default_factory=list)
    _specs: dict[type[Spec], dict[str, Spec]] = field(default_factory=dict)
    _owners: dict[tuple[type[Spec], str], str] = field(default_factory=dict)

    def register(self, plugin: object, name: str) -> None:
        """Adds a plugin by hand; whatever is wrong with it is raised.

        Raises:
            PluginError: A hook of it is unknown, raises, or hands over something that is no spec of its kind.
            PluginConflict: Its name, or the name of something it registers, is taken.
        """
        taken = {status.name for status in self._statuses if status.status is PluginState.LOADED}
        if name in taken:
            raise PluginConflict(f"a plugin called {name!r} is registered already; choose another name")
        self._add(
            plugin,
            PluginStatus(name=name, distribution="", version="", status=PluginState.LOADED),
            named=True,
        )

    def status(self) -> list[PluginStatus]:
        """Every installed plugin, core first, with what became of it."""
        return list(self._statuses)

    def adapters(self) -> dict[str, AdapterSpec]:
        """Framework adapters by name."""
        return self._of(AdapterSpec)

    def stages(self) -> dict[str, StageSpec]:
        """Pipeline stages by name."""
        return self._of(StageSpec)

    def graders(self) -> dict[str, GraderSpec]:
        """Graders by name."""
        return self._of(GraderSpec)

    def algorithms(self) -> dict[str, AlgorithmSpec]:
        """Algorithms by name."""
        return self._of(AlgorithmSpec)

    def engines(self) -> dict[str, EngineSpec]:
        """Inference engines and learners by name."""
        return self._of(EngineSpec)

    def stores(self) -> dict[str, StoreSpec]:
        """Store backends by URL scheme."""
        return self._of(StoreSpec)

    def launchers(self) -> dict[str, LauncherSpec]:
        """Launchers by name."""
        return self._of(LauncherSpec)

    def resources(self) -> dict[str, ResourceSpec]:
        """Resource kinds by name."""
        return self._of(ResourceSpec)

    def observers(self) -> dict[str, ObserverSpec]:
        """Observers by name."""
        return self._of(ObserverSpec)

    def apps(self) -> dict[str, AppSpec]:
        """Apps by name."""
        return self._of(AppSpec)

    def commands(self) -> dict[str, CommandSpec]:
        """CLI commands by name."""
        return self._of(CommandSpec)

    def find(self, kind: type[SpecT], name: str) -> SpecT:
        """The spec of a kind with a name: `plugins.find(AlgorithmSpec, "apo")`.

        Raises:
            PluginNotFound: There is none; the message has the nearest name, or how to install it.
        """
        specs = self._of(kind)
        if name in specs:
            return specs[name]
        word = kind_of(kind)
        raise PluginNotFound(
            f"no installed plugin provides the {word} {name!r}; {self._remedy(word, name, specs)}"
        )

    def load(self, spec: Spec) -> object:
        """Imports what a spec points to.

        Raises:
            MissingExtra: Something it requires is not installed; the message has the command.
            PluginError: Its target cannot be imported.
        """
        word = f"{kind_of(type(spec))} {spec.name!r}"
        module, separator, attributes = spec.target.partition(":")
        try:
            missing = [text for text in map(unmet, spec.requires) if text]
            if missing:
                install = spec.extra or " ".join(f"'{requirement}'" for requirement in spec.requires)
                raise MissingExtra(f"{word} needs {', '.join(missing)}; run: pip install {install}")
            if not separator:
                raise AttributeError("the target is not of the form 'module:attribute'")
            return reduce(getattr, attributes.split("."), cast("object", importlib.import_module(module)))
        except MissingExtra:
            raise
        except (Exception, SystemExit) as error:  # a plugin's module may raise anything
            owner = self._owners.get((type(spec), spec.name), "")
            raise PluginError(
                f"{word} of plugin {owner!r} cannot be loaded from {spec.target!r}: {brief(error)}; "
                f"reinstall or update it"
            ) from error

    def configure_pipeline(self, pipeline: Pipeline, algorithm: str) -> Pipeline:
        """Lets each plugin rewrite a pipeline, in order of registration; one that raises is skipped.

        Raises:
            PluginError: A plugin that the user named raised.
        """
        for loaded in self._loaded:
            try:
                pipeline = self._configured(loaded, pipeline, algorithm)
            except (Exception, SystemExit) as error:  # a hook may raise anything
                message = f"plugin {loaded.name!r} failed in {_CONFIGURE}: {brief(error)}"
                if loaded.named:
                    raise PluginError(f"{message}; mend it or set AGL_DISABLE={loaded.name}") from error
                _log.warning("%s; the pipeline goes on without it", message)
        return pipeline

    def _configured(self, loaded: _Loaded, pipeline: Pipeline, algorithm: str) -> Pipeline:
        from agentlightning.pipeline import Pipeline

        for result in self._call(_CONFIGURE, loaded.plugin, pipeline=pipeline, algorithm=algorithm):
            if not isinstance(result, Pipeline):
                raise TypeError(f"it returned {result!r}, not a Pipeline or None")
            pipeline = result
        return pipeline

    def _of(self, kind: type[SpecT]) -> dict[str, SpecT]:
        return cast("dict[str, SpecT]", dict(self._specs.get(kind, {})))

    def _call(self, hook: str, plugin: object, **arguments: object) -> list[object]:
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        return cast("list[object]", self._manager.subset_hook_caller(hook, others)(**arguments))

    def _remedy(self, word: str, name: str, specs: Mapping[str, Spec]) -> str:
        skipped = [status for status in self._statuses if status.name == name and status.reason]
        if skipped:
            return f"the plugin {name!r} is installed but {skipped[0].status.value}: {skipped[0].reason}"
        if hint := install_hint(word, name):
            return f"run: pip install {hint}"
        near = difflib.get_close_matches(name, specs, n=1, cutoff=0.5)
        return f"did you mean {near[0]!r}?" if near else f"installed are {', '.join(sorted(specs)) or 'none'}"

    def _load_candidate(self, candidate: Candidate) -> None:
        status = PluginStatus(
            name=candidate.name,
            distribution=candidate.distribution,
            version=candidate.version,
            status=PluginState.DISABLED if candidate.excluded else PluginState.LOADED,
            reason=candidate.excluded,
        )
        if candidate.excluded:
            self._statuses.append(status)
            return
        started = time.perf_counter()
        try:
            plugin = cast("object", candidate.entry_point.load())
            self._add(plugin, status, named=candidate.named, started=started)
        except PluginConflict:
            raise
        except (Exception, SystemExit) as error:  # a plugin's module may raise anything
            if candidate.named:
                raise PluginError(
                    f"plugin {candidate.name!r} from {candidate.distribution!r} {candidate.version} cannot be "
                    f"loaded: {brief(error)}; mend it or set AGL_DISABLE={candidate.name}"
                ) from error
            _log.warning(
                "skipped the plugin %r from %r: %s", candidate.name, candidate.distribution, brief(error)
            )
            seconds = time.perf_counter() - started
            self._statuses.append(
                replace(status, status=PluginState.FAILED, reason=brief(error), seconds=seconds)
            )

    def _add(
        self, plugin: object, status: PluginStatus, *, named: bool, started: float | None = None
    ) -> None:
        """Registers a plugin with all that it hands over, or nothing of it."""
        started = time.perf_counter() if started is None else started
        hooks = _check_hooks(plugin, self._manager)
        self._manager.register(plugin, name=status.name)
        try:
            specs = [
                spec
                for hook, kind in REGISTER_HOOKS.items()
                for result in self._call(hook, plugin)
                for spec in _check_specs(result, kind, hook)
            ]
            self._check_free(specs, status)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        for spec in specs:
            self._specs.setdefault(type(spec), {})[spec.name] = spec
            self._owners[type(spec), spec.name] = status.name
        self._loaded.append(_Loaded(status.name, plugin, named))
        provides = tuple(f"{kind_of(type(spec))} {spec.name}" for spec in specs)
        seconds = time.perf_counter() - started
        self._statuses.append(replace(status, hooks=hooks, provides=provides, seconds=seconds))

    def _check_free(self, specs: Sequence[Spec], status: PluginStatus) -> None:
        owners = dict(self._owners)
        for spec in specs:
            owner = owners.setdefault((type(spec), spec.name), status.name)
            if owner != status.name:
                raise PluginConflict(
                    f"two plugins provide the {kind_of(type(spec))} {spec.name!r}: {self._described(owner)} and "
                    f"{described(status)}; uninstall one, or set AGL_DISABLE={status.name}"
                )
        keys = [(type(spec), spec.name) for spec in specs]
        if twice := sorted(
            {f"{kind_of(kind)} {name!r}" for kind, name in keys if keys.count((kind, name)) > 1}
        ):
            raise PluginError(f"it registers {', '.join(twice)} twice")

    def _described(self, name: str) -> str:
        return next(described(status) for status in self._statuses if status.name == name)


def load_plugins(
    *,
    names: Sequence[str] | None = None,
    disable: Sequence[str] | None = None,
    entry_points: Iterable[EntryPoint] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Plugins:
    """Discovers plugins, imports those that are wanted, and collects what they register.

    A plugin that is merely installed and fails is skipped, with one warning logged; `Plugins.status` has the reason.

    Args:
        names: Exact list of plugins besides core; None takes `AGL_PLUGINS`, else every installed one.
        disable: Plugins to leave out; None takes `AGL_DISABLE`.
        entry_points: Where plugins come from; None is every installed distribution.
        environ: Environment variables.

    Raises:
        PluginError: A plugin that is named cannot be loaded.
        PluginNotFound: A plugin that is named is not installed.
        PluginConflict: Two plugins, or two things of one kind that they register, have one name.
    """
    from agentlightning import hookspecs

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    if environ.get("AGL_TRACE_PLUGINS", "") not in {"", "0"}:
        manager.trace.root.setwriter(sys.stderr.write)
        manager.enable_tracing()
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=PROJECT)
    plugins = Plugins(manager)
    for candidate in discover(entry_points, Selection.of(names=names, disable=disable, environ=environ)):
        plugins._load_candidate(candidate)
    return plugins


def _check_hooks(plugin: object, manager: pluggy.PluginManager) -> tuple[str, ...]:
    """Names of the hooks a plugin implements, each of them known and marked."""
    known = [*REGISTER_HOOKS, _CONFIGURE]
    hooks = [name for name in dir(plugin) if name.startswith("agl_")]
    for name in hooks:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "see docs/reference/hooks.md"
            raise PluginError(f"there is no hook {name!r}; {hint}")
        if manager.parse_hookimpl_opts(plugin, name) is None:
            raise PluginError(
                f"the function {name!r} is not marked; decorate it with @agentlightning.hookimpl"
            )
    return tuple(hooks)


def _check_specs(result: object, kind: type[Spec], hook: str) -> list[Spec]:
    if not isinstance(result, Sequence) or isinstance(result, str):
        raise PluginError(f"{hook} returned {result!r}, not a sequence of {kind.__name__}")
    for spec in result:
        if not isinstance(spec, kind):
            raise PluginError(f"{hook} handed over {spec!r}, not a {kind.__name__}")
    return list(result)
