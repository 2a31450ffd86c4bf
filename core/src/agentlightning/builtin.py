"""The plugin `core`: everything built in, registered through the same hooks as any other plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning.pipeline import BUILTIN_STAGES
from agentlightning.plugins import hookimpl
from agentlightning.specs import (
    CommandSpec,
    GraderSpec,
    LauncherSpec,
    ObserverSpec,
    ResourceSpec,
    StageSpec,
    StoreSpec,
)

COMMANDS: Final[tuple[CommandSpec, ...]] = tuple(
    CommandSpec(name=name, target=f"agentlightning.cli._{name}:command", summary=summary)
    for name, summary in (
        ("config", "the settings in effect, and where each came from"),
        ("demo", "train a real agent on this machine and see it get better"),
        ("doctor", "check this installation, and say how to mend it"),
        ("eval", "evaluate an agent on a file of tasks"),
        ("export", "write everything in a store to a folder"),
        ("import", "read an archive, or somebody else's traces, into a store"),
        ("learn", "learn while agents stay live: candidate, canary, live, or back"),
        ("new", "make a package of your own that passes its contract test"),
        ("pipeline", "stages of the experience pipeline, and what each did in a run"),
        ("plugins", "installed plugins, what they provide, and why one was skipped"),
        ("rollouts", "what the agent did: list and show rollouts"),
        ("run", "one rollout of an agent, shown as a tree"),
        ("runs", "training and evaluation runs: list, show, resume, stop"),
        ("train", "train an agent"),
        ("trim", "delete the oldest rollouts of a store"),
        ("work", "run an agent on the rollouts of a store, also one behind a server"),
    )
)
"""The built-in commands, for the command line to know without loading a plugin."""


@hookimpl
def agl_register_stages() -> Sequence[StageSpec]:
    """The built-in stages."""
    return BUILTIN_STAGES


@hookimpl
def agl_register_graders() -> Sequence[GraderSpec]:
    """Graders that need no model."""
    return [
        GraderSpec(
            name="exact_match",
            target="agentlightning._graders:exact_match",
            summary="1 if the output equals the task's `answer`, else 0",
        )
    ]


@hookimpl
def agl_register_stores() -> Sequence[StoreSpec]:
    """Stores in memory and in a file."""
    return [
        StoreSpec(
            name="memory",
            target="agentlightning.store:open_store",
            summary="in this process; gone with it",
        ),
        StoreSpec(
            name="sqlite",
            target="agentlightning.store:open_store",
            summary="one file; survives the process",
        ),
    ]


@hookimpl
def agl_register_launchers() -> Sequence[LauncherSpec]:
    """Runners in this process."""
    return [
        LauncherSpec(
            name="in-process",
            target="agentlightning.runner:InProcessLauncher",
            summary="rollouts in this process, sync agents in threads",
        )
    ]


@hookimpl
def agl_register_resources() -> Sequence[ResourceSpec]:
    """The built-in resource kinds."""
    return [
        ResourceSpec(
            name="prompt", target="agentlightning.types:PromptTemplate", summary="a prompt template"
        ),
        ResourceSpec(name="model", target="agentlightning.types:ModelEndpoint", summary="a model to talk to"),
        ResourceSpec(name="weights", target="agentlightning.types:Weights", summary="model weights on disk"),
        ResourceSpec(
            name="decision_policy",
            target="agentlightning.types:DecisionPolicy",
            summary="what agl.decide chooses by",
        ),
    ]


@hookimpl
def agl_register_observers() -> Sequence[ObserverSpec]:
    """The progress view of the terminal."""
    return [
        ObserverSpec(
            name="progress",
            target="agentlightning._progress:Progress",
            summary="live progress in the terminal, plain lines elsewhere",
        )
    ]


@hookimpl
def agl_register_commands() -> Sequence[CommandSpec]:
    """The built-in commands."""
    return COMMANDS
