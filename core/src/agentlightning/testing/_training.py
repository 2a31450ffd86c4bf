"""A training run in memory: an engine and a learner that do no arithmetic, and a context that runs no agent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentlightning.algorithm import EvaluationReport
from agentlightning.engine import (
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    InferenceEngine,
    Learner,
    LossSpec,
    OptimizerConfig,
    Tokenized,
)
from agentlightning.errors import EngineError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.statistics import mean_interval
from agentlightning.store import Store
from agentlightning.targets import load_target
from agentlightning.testing._episode_builder import EpisodeBuilder
from agentlightning.types import (
    Episode,
    Experience,
    Json,
    Mode,
    Resource,
    ResourceRecord,
    ResourceSet,
    ResourceState,
    Rollout,
    Run,
    RunKind,
    RunStatus,
    StageReport,
    TokenForest,
)


@dataclass(kw_only=True)
class InMemoryEngine:
    """An engine that only has a version."""

    model: str = "in-memory"
    version: int = 0
    endpoints: tuple[str, ...] = ()

    async def start(self) -> None:
        """Does nothing."""

    async def stop(self) -> None:
        """Does nothing."""

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        """Refuses: there is no model."""
        raise EngineError(f"the in-memory engine has no model to answer {request.get('messages')!r} with")

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        """Refuses: there is no model."""
        yield await self.chat(request)


@dataclass(kw_only=True)
class InMemoryLearner:
    """A learner that keeps what it is given. A token is a byte; each step adds one to its only weight.

    Attributes:
        batches: Each forest and loss handed to `forward_backward`.
        steps: Settings of each optimiser step.
        weight: Number of optimiser steps in what it has learned, checkpoints included.
        pending: Whether there are gradients that no step has applied.
    """

    engine: InMemoryEngine
    batches: list[tuple[TokenForest, LossSpec]] = field(default_factory=list)
    steps: list[OptimizerConfig] = field(default_factory=list)
    weight: int = 0
    pending: bool = False

    async def tokenize(
        self, messages: Sequence[Mapping[str, Json]], *, tools: Sequence[Mapping[str, Json]] = ()
    ) -> Tokenized:
        """Renders tools and messages as UTF-8 lines; an assistant's content and its newline are the assistant's."""
        ids, mask = list(json.dumps(list(tools)).encode()), [False] * len(json.dumps(list(tools)))
        for message in messages:
            head, body = f"{message['role']}:".encode(), f"{message.get('content') or ''}\n".encode()
            ids += head + body
            mask += [False] * len(head) + [message["role"] == "assistant"] * len(body)
        return Tokenized(token_ids=ids, assistant_mask=mask)

    async def forward_backward(self, forest: TokenForest, loss: LossSpec) -> dict[str, float]:
        """Keeps the batch; the loss is the sum of weights."""
        self.batches.append((forest, loss))
        self.pending = True
        return {"loss": sum(sum(tree.weights) for tree in forest.trees)}

    async def logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Zeros."""
        return [[0.0] * len(tree) for tree in forest.trees]

    async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Counts a step. Raises `EngineError` if there are no gradients."""
        if not self.pending:
            raise EngineError("optim_step without gradients; call forward_backward first")
        self.pending = False
        self.steps.append(config)
        self.weight += 1
        return {"grad_norm": 1.0}

    async def publish(self) -> int:
        """Raises the engine's version."""
        self.engine.version += 1
        return self.engine.version

    async def save_state(self, directory: Path) -> None:
        """Writes weight and version."""
        text = json.dumps({"weight": self.weight, "version": self.engine.version})
        (directory / "learner.json").write_text(text)

    async def load_state(self, directory: Path) -> None:
        """Reads the weight, and serves it under a version of its own."""
        state = json.loads((directory / "learner.json").read_text())
        self.weight = state["weight"]
        self.engine.version = max(self.engine.version + 1, state["version"])

    async def save_model(self, directory: Path) -> None:
        """Does the same as `save_state`."""
        await self.save_state(directory)


Play = Callable[[Json, EpisodeBuilder, int], Awaitable[None] | None]
"""Plays an agent, sync or async: takes the task, the episode to add spans to, and the policy version."""


@dataclass(kw_only=True)
class InMemoryTrainingContext:
    """A run whose rollouts are played by a function.

    Attributes:
        play: Plays one rollout.
        logged: Each call of `log`: step and metrics.
        events: Each event: kind and message.
        stages: Reports of the pipeline's stages, by step.
        reports: Evaluations, by label.
        directory: Where the learner's state goes with each checkpoint, by its step; None keeps it nowhere.
        checkpoints: Each checkpoint: step and state.
        updating: Whether a weight update is going on.
        updates: How many there were.
    """

    play: Play
    store: Store
    train: Sequence[Json] = ()
    val: Sequence[Json] = ()
    seed: int = 0
    state: Mapping[str, Json] = field(default_factory=dict)
    engine: InferenceEngine | None = None
    learner: Learner | None = None
    pipeline: Pipeline | None = None
    directory: Path | None = None
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    stages: dict[int, tuple[StageReport, ...]] = field(default_factory=dict)
    reports: dict[str, EvaluationReport] = field(default_factory=dict)
    checkpoints: list[tuple[int, dict[str, Json]]] = field(default_factory=list)
    updating: bool = False
    updates: int = 0
    run: Run = field(
        default_factory=lambda: Run(
            id="run",
            kind=RunKind.TRAIN,
            algorithm="",
            status=RunStatus.RUNNING,
            config={},
            seed=0,
            created_at=0.0,
            updated_at=0.0,
        )
    )
    _episodes: dict[str, Episode] = field(default_factory=dict)
    _published: int = 0

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        """Plays each task `samples` times."""
        version = self.engine.version if self.engine else -1
        played = []
        for index, task in enumerate(tasks):
            for sample in range(samples):
                name = f"{mode.value}-{step}-{index}-{sample}"
                group = f"{mode.value}-{step}-{index}"
                builder = EpisodeBuilder(
                    rollout_id=name,
                    group=group,
                    sample=sample,
                    task=task,
                    resources=resources.id if resources else None,
                )
                if (playing := self.play(task, builder, version)) is not None:
                    await playing
                self._episodes[name] = builder.build()
                played.append(self._episodes[name].rollout)
        return played

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        """Runs the pipeline over what was played: the default one unless another was given."""
        del source  # everything played is in memory
        pipeline = self.pipeline or Pipeline.from_specs(
            {spec.name: spec for spec in BUILTIN_STAGES}, load=lambda spec: load_target(spec.target)
        )
        episodes = tuple(self._episodes[rollout.id] for rollout in rollouts)
        experience = pipeline.run(Experience(episodes=episodes))
        self.stages[step] = experience.reports
        return experience

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        """Plays each task once."""
        tasks = self.val if tasks is None else tasks
        rollouts = await self.rollouts(tasks, mode=Mode.VAL, step=step, resources=resources)
        experience = await self.experience(rollouts, step=step)
        found = {trajectory.rollout.id: trajectory.outcome for trajectory in experience.trajectories}
        outcomes = tuple(found.get(rollout.id) for rollout in rollouts)
        mean, low, high = mean_interval([outcome for outcome in outcomes if outcome is not None])
        self.reports[label] = EvaluationReport(mean=mean, low=low, high=high, n=len(found), outcomes=outcomes)
        return self.reports[label]

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        """Numbers the set; nothing keeps it."""
        self._published += 1
        return ResourceSet(
            id=f"set-{self._published}",
            version=self._published,
            resources={name: ResourceRecord.of(resource) for name, resource in resources.items()},
            parent=None,
            state=ResourceState.LIVE if live else ResourceState.CANDIDATE,
            run_id=self.run.id,
            step=step,
            created_at=0.0,
        )

    @asynccontextmanager
    async def weight_update(self) -> AsyncIterator[None]:
        """Counts updates."""
        self.updating, self.updates = True, self.updates + 1
        try:
            yield
        finally:
            self.updating = False

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Keeps the metrics."""
        self.logged.append((step, dict(metrics)))

    async def phase(self, name: str, *, total: int | None = None) -> None:
        """Keeps the phase among the events."""
        self.events.append(("phase", name if total is None else f"{name} of {total}"))

    async def event(self, kind: str, message: str) -> None:
        """Keeps the event."""
        self.events.append((kind, message))

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        """Keeps the state."""
        if self.learner is not None and self.directory is not None:
            place = self.directory / str(step)
            place.mkdir(parents=True)
            await self.learner.save_state(place)
        self.checkpoints.append((step, dict(state)))
