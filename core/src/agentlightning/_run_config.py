"""The configuration of a run: what `agl.toml`, the environment and flags can say."""

from __future__ import annotations

from typing import Annotated

import msgspec

from agentlightning.budget import Budget
from agentlightning.gateway import HttpUpstream, Sampling
from agentlightning.types import Json

DEFAULT_STORE = "sqlite:///agl.db"
"""Where things are kept when nobody says otherwise: a file in the working directory."""

Params = dict[str, dict[str, Json]]
"""Parameters by the name of what they are for."""


class GatewaySection(msgspec.Struct, frozen=True, kw_only=True):
    """How agents' model calls are served.

    Attributes:
        port: Port on the loopback interface; 0 takes a free one.
        upstreams: External models by name, for a run without an engine; `*` is every other model.
    """

    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    upstreams: dict[str, HttpUpstream] = {}


class PipelineSection(msgspec.Struct, frozen=True, kw_only=True):
    """Which stages turn spans into experience.

    Attributes:
        stages: Names in order; None is the default pipeline.
        params: Parameters by stage.
    """

    stages: tuple[str, ...] | None = None
    params: Params = {}


class SamplingSection(msgspec.Struct, frozen=True, kw_only=True):
    """Overrides of the agent's sampling parameters, by mode."""

    train: Sampling = Sampling()
    val: Sampling = Sampling()
    test: Sampling = Sampling()


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A training, an evaluation or a single rollout.

    Attributes:
        target: The agent, as `module:object` or `file.py:object`.
        agent: A command line as the agent instead, with the fields of `CommandAgent`: `[agent] command = "cli {task}"`.
        algorithm: Names of algorithms, or compositions such as `together(lightningrl, decisions)`; several run one
            after another.
        algorithms: Parameters by algorithm: `[algorithms.lightningrl]`.
        engine: Name of what serves, and maybe trains, the model; None leaves the agent its own.
        engines: Options by engine: `[engines.torch]`.
        train: File of training tasks.
        val: File of held-out tasks.
        graders: Names or import strings; without any, a number that the agent returns is its reward.
        observers: Names of listeners.
        store: URL of the store.
        model: Model to ask for instead of the agent's own choice.
        agents: Names of agents to train; empty is all.
        budget: Hard limits.
        seed: Everything random derives from it.
        concurrency: Rollouts at once.
        timeout_s: Longest duration of one attempt, in seconds.
        max_attempts: Most attempts of one rollout.
        directory: Where runs keep their files; None is next to the store.
    """

    target: str = ""
    agent: dict[str, Json] = {}
    algorithm: tuple[str, ...] = ("lightningrl",)
    algorithms: Params = {}
    engine: str | None = None
    engines: Params = {}
    gateway: GatewaySection = GatewaySection()
    pipeline: PipelineSection = PipelineSection()
    sampling: SamplingSection = SamplingSection()
    train: str | None = None
    val: str | None = None
    graders: tuple[str, ...] = ()
    observers: tuple[str, ...] = ()
    store: str = DEFAULT_STORE
    model: str | None = None
    agents: tuple[str, ...] = ()
    budget: Budget = Budget()
    seed: int = 0
    concurrency: Annotated[int, msgspec.Meta(ge=1)] = 32
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 3
    directory: str | None = None
