"""What a run is made of, as plain data: everything that is needed to start it again in another process."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from agentlightning.budget import Budget
from agentlightning.compose import Plan
from agentlightning.continuous import Continuous
from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream, Sampling
from agentlightning.types import Json, Mode


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `Trainer` as plain data; they mean the same there.

    Attributes:
        agent: Import string; empty for an agent that was given as an object and has none.
        graders: Import strings or names; None stands for an object that has none.
        observers: Names or import strings; listeners given as objects are not part of it.
        continuous: How it learns while agents stay live; None for a training that ends.
    """

    agent: str
    algorithm: Plan
    engine: str | None = None
    engine_params: dict[str, Json] = {}
    upstreams: dict[str, HttpUpstream] = {}
    graders: tuple[str | None, ...] = ()
    observers: tuple[str, ...] = ()
    stages: tuple[str, ...] | None = None
    stage_params: dict[str, dict[str, Json]] = {}
    sampling: dict[Mode, Sampling] = {}
    model: str | None = None
    agents: tuple[str, ...] = ()
    budget: Budget = Budget()
    seed: int = 0
    concurrency: int = 32
    timeout_s: float | None = None
    max_attempts: int = 3
    port: int = 0
    directory: str | None = None
    continuous: Continuous | None = None

    def to_config(self) -> dict[str, Json]:
        """The recipe as the store keeps it."""
        config: dict[str, Json] = msgspec.to_builtins(self)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Json], *, run_id: str) -> Recipe:
        """The inverse of `to_config`.

        Raises:
            ConfigError: The run was started from objects that cannot be found again, or by another version.
        """
        try:
            recipe = msgspec.convert(dict(config), type=cls)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"run {run_id} cannot be started again: its configuration does not fit: {error}"
            ) from error
        if not recipe.agent or None in recipe.graders:
            raise ConfigError(
                f"run {run_id} was given its agent or a grader as an object without an import path; "
                f"resume it from that script with Trainer(...).fit(resume={run_id!r})"
            )
        return recipe


def environment() -> dict[str, str]:
    """Versions and platform, kept with each run."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("agentlightning-core", "torch", "transformers", "openai"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_tasks(path: Path, tasks: Sequence[Json]) -> None:
    """Writes tasks as JSONL, one a line.

    Raises:
        ConfigError: A task is not JSON.
    """
    try:
        lines = [json.dumps(task, allow_nan=False) for task in tasks]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"tasks must be JSON (dict, list, str, finite numbers, bool, None): {error}"
        ) from error
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_jsonl(path: Path) -> list[Json]:
    """Reads what `write_tasks` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
