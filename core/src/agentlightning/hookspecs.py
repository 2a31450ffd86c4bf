"""Every hook a plugin can implement. `agl plugins` lists who implements what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.plugins import hookspec

if TYPE_CHECKING:
    from agentlightning.pipeline import Pipeline
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
        StageSpec,
        StoreSpec,
    )


@hookspec
def agl_register_adapters() -> Sequence[AdapterSpec]:
    """Hands over framework adapters: capture, binding and tunables for one framework each.

    Called once, when the plugins are loaded. The target is imported when an agent is about to run and the spec's
    module is installed.

    Returns:
        Specs whose targets are `agentlightning.agents.Adapter` classes.
    """
    raise NotImplementedError


@hookspec
def agl_register_stages() -> Sequence[StageSpec]:
    """Hands over pipeline stages.

    Called once, when the plugins are loaded. Stages marked `default` join the default pipeline in their order.

    Returns:
        Specs whose targets are `agentlightning.pipeline.StageFactory` classes or functions.
    """
    raise NotImplementedError


@hookspec
def agl_configure_pipeline(pipeline: Pipeline, algorithm: str) -> Pipeline | None:
    """Rewrites a pipeline that is about to be used.

    Called once per run, after the configuration was applied, in order of registration; each sees what the one
    before it returned.

    Args:
        pipeline: The pipeline as it stands; immutable.
        algorithm: Name of the algorithm it will feed.

    Returns:
        The pipeline to use, with stages reordered, inserted, replaced or removed; None to leave it.
    """
    raise NotImplementedError


@hookspec
def agl_register_graders() -> Sequence[GraderSpec]:
    """Hands over graders: functions that turn a finished attempt into rewards.

    Called once, when the plugins are loaded. A run uses the graders its configuration names.

    Returns:
        Specs whose targets are functions of task and output.
    """
    raise NotImplementedError


@hookspec
def agl_register_algorithms() -> Sequence[AlgorithmSpec]:
    """Hands over algorithms.

    Called once, when the plugins are loaded. The name is what `agl train --algorithm NAME` takes.

    Returns:
        Specs whose targets are `agentlightning.algorithm.AlgorithmFactory` classes or functions.
    """
    raise NotImplementedError


@hookspec
def agl_register_engines() -> Sequence[EngineSpec]:
    """Hands over inference engines and learners.

    Called once, when the plugins are loaded. The name is what `agl train --engine NAME` takes.

    Returns:
        Specs whose targets are `agentlightning.engine.BackendFactory` functions or classes.
    """
    raise NotImplementedError


@hookspec
def agl_register_stores() -> Sequence[StoreSpec]:
    """Hands over store backends by URL scheme.

    Called once, when the plugins are loaded.

    Returns:
        Specs whose name is the scheme (`sqlite`) and whose target is called with the URL.
    """
    raise NotImplementedError


@hookspec
def agl_register_launchers() -> Sequence[LauncherSpec]:
    """Hands over launchers: where runners run.

    Called once, when the plugins are loaded.

    Returns:
        Specs whose targets are `agentlightning.runner.Launcher` classes.
    """
    raise NotImplementedError


@hookspec
def agl_register_resources() -> Sequence[ResourceSpec]:
    """Hands over resource kinds.

    Called once, when the plugins are loaded. Stored resources of a kind nobody registered are kept and listed, but
    cannot be bound.

    Returns:
        Specs whose name is the kind and whose target is a frozen msgspec struct.
    """
    raise NotImplementedError


@hookspec
def agl_register_observers() -> Sequence[ObserverSpec]:
    """Hands over listeners to runtime events: trackers, progress, alerts.

    Called once, when the plugins are loaded. A run uses the observers its configuration names. An observer that
    raises is logged and skipped; it never stops the run.

    Returns:
        Specs whose targets are `agentlightning.observer.Observer` classes.
    """
    raise NotImplementedError


@hookspec
def agl_register_apps() -> Sequence[AppSpec]:
    """Hands over apps that the server mounts: gateway, dashboard, OTLP.

    Called once, when the plugins are loaded. The app named `gateway` is also used inside the trainer's process.

    Returns:
        Specs whose targets are factories, `agentlightning.gateway.GatewayFactory` for the gateway.
    """
    raise NotImplementedError


@hookspec
def agl_register_commands() -> Sequence[CommandSpec]:
    """Hands over CLI commands. Built-in commands come through this hook too.

    Called once, when the plugins are loaded; the target is imported when the command is used.

    Returns:
        Specs whose targets are `click.Command` objects; the summary is the line in `agl --help`.
    """
    raise NotImplementedError
