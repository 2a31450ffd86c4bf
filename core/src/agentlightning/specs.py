"""What register hooks hand over: frozen descriptions with an import string, so that listing imports nothing heavy."""

from __future__ import annotations

import msgspec


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What every spec says.

    Attributes:
        name: Unique among specs of its kind.
        target: `module:attribute`, imported when it is first used.
        summary: One line for listings.
        requires: PEP 508 requirements that must be met before the target is imported.
        extra: What to install when they are not, such as `lightning-plugin-torch`.
    """

    name: str
    target: str
    summary: str = ""
    requires: tuple[str, ...] = ()
    extra: str = ""


class AdapterSpec(Spec, frozen=True, kw_only=True):
    """A framework adapter; the target is a class of `agents.Adapter` without arguments.

    Attributes:
        module: Top-level module of the framework: capture starts only where it is installed.
    """

    module: str = ""


class StageSpec(Spec, frozen=True, kw_only=True):
    """A pipeline stage; the target is a `pipeline.StageFactory`.

    Attributes:
        default: It is part of the default pipeline.
        order: Place in the default pipeline; lower runs earlier.
    """

    default: bool = False
    order: int = 500


class GraderSpec(Spec, frozen=True, kw_only=True):
    """A grader; the target is a `runner.Grader`: `(task, output) -> float | dict[str, float]`, sync or async."""


class AlgorithmSpec(Spec, frozen=True, kw_only=True):
    """An algorithm; the target is an `algorithm.AlgorithmFactory`.

    Attributes:
        needs_learner: It trains weights: a run without an engine that learns is refused at once.
        on_policy: It learns from what the model would sample as it is: training rollouts have temperature 1 and top_p
            1 of the run's engine, whatever the agent asks for, unless the run's sampling says otherwise.
    """

    needs_learner: bool = False
    on_policy: bool = False


class EngineSpec(Spec, frozen=True, kw_only=True):
    """An inference engine, maybe with a learner; the target is an `engine.BackendFactory`."""


class StoreSpec(Spec, frozen=True, kw_only=True):
    """A store backend; the name is the URL scheme, the target is called with the URL and returns a `Store`."""


class LauncherSpec(Spec, frozen=True, kw_only=True):
    """Where runners run; the target is a `runner.Launcher`."""


class ResourceSpec(Spec, frozen=True, kw_only=True):
    """A resource kind; the name is the kind, the target a frozen msgspec struct with that `kind`."""


class ObserverSpec(Spec, frozen=True, kw_only=True):
    """A listener to runtime events; the target is an `observer.Observer` class without arguments."""


class AppSpec(Spec, frozen=True, kw_only=True):
    """Something the server mounts, such as the dashboard; the target is an `apps.AppFactory`.

    The app named `gateway` is special: its target is a `gateway.GatewayFactory`.

    Attributes:
        mount: Path prefix under which the server mounts it, such as `/dashboard`; empty is not mounted.
        scopes: Scopes of keys that may call it; `admin` always may. The server refuses others before the app is called.
        public: Anybody may call it: for files without data only.
    """

    mount: str = ""
    scopes: tuple[str, ...] = ()
    public: bool = False


class CommandSpec(Spec, frozen=True, kw_only=True):
    """A CLI command; the target is a `click.Command`."""
