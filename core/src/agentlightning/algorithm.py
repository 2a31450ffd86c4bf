"""Contract of algorithms, and what a run offers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from agentlightning.engine import InferenceEngine, Learner
from agentlightning.store import Store
from agentlightning.types import Experience, Json, Mode, Resource, ResourceSet, Rollout, Run


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """How well the agent does on a set of tasks.

    Attributes:
        mean: Mean outcome over the tasks that were scored.
        low: Lower end of the 95 % interval (Wilson for outcomes of 0 and 1, else bootstrap over tasks).
        high: Upper end.
        n: Tasks scored.
        failures: Tasks without an outcome, by class of failure; they are not counted as 0.
        outcomes: Outcome of each task in order; None where there is none.
        rollout_ids: The rollout of each task, in order.
        decoding: How answers were sampled, for people.
    """

    mean: float
    low: float
    high: float
    n: int
    failures: dict[str, int] = {}
    outcomes: tuple[float | None, ...] = ()
    rollout_ids: tuple[str, ...] = ()
    decoding: str = ""


@runtime_checkable
class InFlightEngine(InferenceEngine, Protocol):
    """An engine whose weights may change under answers that it is sampling: `isinstance` tells before training.

    Attributes:
        updates_in_flight: How it does that, for people. Such an answer carries the oldest version that sampled it.
    """

    updates_in_flight: str


class TrainingContext(Protocol):
    """What a run offers its algorithm. Everything that is used is recorded with the run.

    Attributes:
        run: The run as it was when it (re)started.
        seed: The run's seed; derive all randomness from it and the step, so that a resumed run repeats itself.
        train: Training tasks.
        val: Held-out tasks; may be empty.
        store: The store.
        engine: What serves the model under training; None if the run has none.
        learner: What trains it; None if the run has none.
        state: What the algorithm handed to `checkpoint` last; empty on a fresh start.
    """

    run: Run
    seed: int
    train: Sequence[Json]
    val: Sequence[Json]
    store: Store
    engine: InferenceEngine | None
    learner: Learner | None
    state: Mapping[str, Json]

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        """Executes each task `samples` times and waits: `len(tasks) * samples` rollouts, samples of a task adjacent.

        Samples of one task form a group. Seeds derive from the run's seed, step, task and sample.

        Raises:
            BudgetExhausted: The budget does not allow them; nothing was started.
            Interrupted: The run was asked to stop.
        """
        ...

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        """Runs the pipeline over what was captured, and stores the stages' reports with the run.

        Args:
            rollouts: Finished ones.
            step: Of the algorithm, for the reports.
            source: The store that has them; None is the run's own.

        Raises:
            BudgetExhausted: The time is up.
        """
        ...

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        """Evaluates on `tasks` (else `val`) and keeps the report in the run's summary under `label`."""
        ...

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        """Publishes a resource set, live or as a candidate, with the set that is live as its parent."""
        ...

    def weight_update(self) -> AbstractAsyncContextManager[None]:
        """Pauses the gateway, lets calls in flight end, and resumes afterwards: change weights inside."""
        ...

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Adds to the run's metric series; finite numbers only."""
        ...

    async def phase(self, name: str, *, total: int | None = None) -> None:
        """Says what comes now and how many steps it will take, for progress views."""
        ...

    async def event(self, kind: str, message: str) -> None:
        """Adds an event for people."""
        ...

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        """Saves the learner and `state` so that a killed run goes on from `step`.

        Raises:
            Interrupted: The run was asked to stop; the checkpoint was saved first.
        """
        ...


class Algorithm(Protocol):
    """Turns experience into better resources. Built from its spec's target with the configured parameters."""

    name: str

    async def fit(self, context: TrainingContext) -> None:
        """Runs to the end of training, or raises. What it learned is in the context's learner or published sets.

        An algorithm is composed with others (`agentlightning.compose`) by what it asks of its context. Together with
        others it learns from whatever rollouts it is handed; a step ends when it logs; and where it saves its state it
        may be set aside, so that state, learner and store must be all that it goes on from.
        """
        ...


class AlgorithmFactory(Protocol):
    """Target of an `AlgorithmSpec`: a class or function."""

    def __call__(self, params: Mapping[str, Json]) -> Algorithm:
        """Builds the algorithm.

        Args:
            params: From the configuration; unknown keys are a `ConfigError` (use `config.decode_params`).
        """
        ...
