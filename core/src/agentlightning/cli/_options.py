"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import click
import msgspec

from agentlightning._install_hints import install_hint
from agentlightning._settings import split_names
from agentlightning._upstreams import parse_upstream
from agentlightning.config import EffectiveConfig, RunConfig, load_config
from agentlightning.plugins import Plugins, kind_of
from agentlightning.specs import AlgorithmSpec, EngineSpec, Spec
from agentlightning.types import Json

_Command = TypeVar("_Command", bound=Callable[..., object])
_Decorator = Callable[[Callable[..., object]], Callable[..., object]]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
store_option = click.option(
    "--store",
    metavar="URL",
    help="Store to look into; else AGL_STORE, else the configuration file, else sqlite:///agl.db.",
)


@dataclass(frozen=True, slots=True)
class Shared:
    """What was said before the subcommand: `agl runs --json list`."""

    store: str | None = None
    as_json: bool = False


_CONFIGURATION: Final[Sequence[_Decorator]] = (
    click.option("--config", "file", type=click.Path(path_type=Path), help="TOML file; else ./agl.toml."),
    click.option("--set", "assignments", multiple=True, metavar="K=V", help="Any setting; may be repeated."),
)
_SETTINGS: Final[Sequence[_Decorator]] = (
    click.option("--algorithm", multiple=True, metavar="NAME",
                 help="Algorithm, or a composition such as together(lightningrl, decisions); several run in order."),
    click.option("--agent-command", "--command", "agent__command", metavar="LINE",
                 help="A command line as the agent, instead of TARGET: 'my-cli {task}'."),
    click.option("--engine", metavar="NAME", help="What serves and trains the model."),
    click.option("--gateway-upstream", "--upstream", "upstreams", multiple=True, metavar="MODEL=URL",
                 help="External model; * is every other one."),
    click.option("--gateway-port", "--port", "gateway__port", type=int, help="The gateway's port; 0: a free one."),
    click.option("--model", metavar="NAME", help="Model to ask for instead of the agent's own choice."),
    click.option("--graders", "--grader", multiple=True, metavar="NAME", help="Name or import string of a grader."),
    click.option("--observers", "--observer", multiple=True, metavar="NAME", help="Listener to the run's events."),
    click.option("--agents", "--agent", multiple=True, metavar="NAME", help="Train only the agents of that name."),
    click.option("--store", metavar="URL", help="Where everything is kept; default sqlite:///agl.db."),
    click.option("--directory", metavar="DIR", help="Where checkpoints go; default next to the store."),
    click.option("--budget-rollouts", "budget__rollouts", type=int, metavar="N", help="Most rollouts."),
    click.option("--budget-tokens", "budget__tokens", type=int, metavar="N", help="Most tokens."),
    click.option("--budget-seconds", "budget__seconds", type=float, metavar="S", help="Longest wall time."),
    click.option("--seed", type=int, help="Everything random derives from it."),
    click.option("--concurrency", type=int, metavar="N", help="Rollouts at once."),
    click.option("--timeout-s", "--timeout", "timeout_s", type=float, metavar="S", help="Longest attempt."),
    click.option("--max-attempts", type=int, metavar="N", help="Most attempts of one rollout."),
)  # fmt: skip


def configuration_options(command: _Command) -> _Command:
    """Adds `--config` and `--set`."""
    return _decorated(command, _CONFIGURATION)


def run_options(command: _Command) -> _Command:
    """Adds a flag for every setting that people change often, `--config` and `--set`."""
    return _decorated(command, [*_SETTINGS, *_CONFIGURATION])


def effective(
    *, file: Path | None, assignments: Sequence[str], flags: Mapping[str, object] | None = None
) -> EffectiveConfig:
    """The configuration of a command, from its options.

    Raises:
        ConfigError: A setting cannot be used.
    """
    given: dict[str, Json] = {
        name.replace("__", "."): _listed(value)
        for name, value in (flags or {}).items()
        if name != "upstreams"
    }
    upstreams = (flags or {}).get("upstreams")
    if isinstance(upstreams, tuple) and upstreams:
        given["gateway.upstreams"] = dict(_upstream(str(text)) for text in upstreams)
    return load_config(file, flags=given, assignments=assignments)


def store_url(option: str | None) -> str:
    """The store that a command looks into."""
    return option or load_config().config.store


def check_names(config: RunConfig, plugins: Plugins) -> None:
    """Refuses sections of algorithms and engines that do not exist; those of known ones may be missing here.

    Raises:
        PluginNotFound: There is no such algorithm or engine; the message has the nearest name.
    """
    sections: tuple[tuple[type[Spec], Mapping[str, object]], ...] = (
        (AlgorithmSpec, config.algorithms),
        (EngineSpec, config.engines),
    )
    for kind, section in sections:
        for name in section:
            if not install_hint(kind_of(kind), name):
                plugins.find(kind, name)


def _upstream(text: str) -> tuple[str, Json]:
    model, upstream = parse_upstream(text)
    settings = msgspec.to_builtins(upstream)
    return model, {name: value for name, value in settings.items() if value is not None}


def _listed(value: object) -> Json:
    """Repeated options as a list, each of them maybe several with commas; none given is None."""
    if not isinstance(value, tuple):
        return value
    return [name for one in value for name in split_names(str(one))] or None


def _decorated(command: _Command, decorators: Sequence[_Decorator]) -> _Command:
    for decorate in reversed(decorators):
        decorate(command)  # click keeps the option on the function and returns the same one
    return command
