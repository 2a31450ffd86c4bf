"""What a run offers its algorithm: the `TrainingContext` over a store, runners, pipeline, gateway and engine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agentlightning._episodes import read_episodes
from agentlightning.algorithm import EvaluationReport
from agentlightning.budget import BudgetMeter
from agentlightning.engine import InferenceEngine, Learner
from agentlightning.errors import (
    ConfigError,
    Interrupted,
    NotFound,
    NumericalError,
    StoreError,
    StoreUnavailable,
)
from agentlightning.gateway import CanaryScore, Gateway, Sampling
from agentlightning.observer import (
    Evaluated,
    EventLogged,
    MetricsLogged,
    Observers,
    PhaseStarted,
    RunFinished,
)
from agentlightning.pipeline import Pipeline
from agentlightning.statistics import mean_interval
from agentlightning.store import Store
from agentlightning.types import (
    Checkpoint,
    Episode,
    Experience,
    Json,
    MetricPoint,
    Mode,
    PolicyLineage,
    Resource,
    ResourceSet,
    ResourceState,
    Rollout,
    RolloutConfig,
    RolloutRequest,
    Run,
    RunEvent,
    RunStatus,
)
from agentlightning.versions import WEIGHTS_EVENT, lineage_of, loading

_KEPT_CHECKPOINTS = 2


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(kw_only=True)
class Session:
    """One run at work; implements `TrainingContext`.

    Attributes:
        stop: Set when the run was asked to stop.
        workers: The task that executes rollouts; it ends only by failing.
        serial: Checkpoints written so far.
        saved_version: Policy version of the weights in the newest checkpoint of this process; -1 if there is none.
        canary_version: Newest policy version whose canary was logged.
        directory: Where the run keeps its files.
        lineages: Of policy versions, by run, as far as they were read.
    """

    run: Run
    seed: int
    train: Sequence[Json]
    val: Sequence[Json]
    store: Store
    engine: InferenceEngine | None
    learner: Learner | None
    gateway: Gateway | None
    pipeline: Pipeline
    observers: Observers
    meter: BudgetMeter
    rollout_config: RolloutConfig
    sampling: Mapping[Mode, Sampling]
    directory: Path
    stop: asyncio.Event
    state: Mapping[str, Json]
    serial: int = 0
    saved_version: int = -1
    canary_version: int = -1
    workers: asyncio.Task[None] | None = None
    lineages: dict[str | None, PolicyLineage] = field(default_factory=dict)

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Rollout]:
        """See `TrainingContext.rollouts`; they may be given labels besides the step."""
        self.raise_if_stopped()
        self.meter.reserve(len(tasks) * samples)
        pinned = resources.id if resources else None
        requests = [
            RolloutRequest(
                task=task,
                mode=mode,
                run_id=self.run.id,
                group=f"{self.run.id}/{mode}/{step}/{index}",
                sample=sample,
                seed=derive_seed(self.seed, mode, step, index, sample),
                resources=pinned,
                config=self.rollout_config,
                metadata={"step": str(step), **(metadata or {})},
            )
            for index, task in enumerate(tasks)
            for sample in range(samples)
        ]
        queued = await self.store.rollouts.enqueue(requests)
        return await self._finished([rollout.id for rollout in queued])

    async def _finished(self, ids: list[str]) -> list[Rollout]:
        """Waits for the rollouts, or gives them up when the run is stopped or nobody executes them any more."""
        waiting = asyncio.create_task(self.store.rollouts.wait(ids))
        stopping = asyncio.create_task(self.stop.wait())
        others = {stopping} if self.workers is None else {stopping, self.workers}
        try:
            await asyncio.wait({waiting, *others}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self.store.rollouts.cancel(ids, reason="the run was stopped")
                self.raise_if_stopped()
                if self.workers is not None:
                    await self.workers
            return waiting.result()
        except asyncio.CancelledError:
            # nobody waits for them any more, and what is queued behind them is waited for
            with suppress(StoreError):
                await self.store.rollouts.cancel(ids, reason="the run does not need it any more")
            raise
        finally:
            for task in (waiting, stopping):
                task.cancel()

    def raise_if_stopped(self) -> None:
        """Raises `Interrupted` once the run was asked to stop."""
        if self.stop.is_set():
            raise Interrupted(
                f"run {self.run.id} was stopped; go on with: {resume_command(self.run.id, self.store)}"
            )

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        """See `TrainingContext.experience`."""
        episodes = await read_episodes(source or self.store, rollouts)
        own = [one for one in episodes if one.rollout.run_id == self.run.id]
        if not own:
            self.meter.check_time()  # rollouts of others were never reserved
        self.meter.count(own)
        lineages = await self._lineages(episodes, source or self.store)
        experience = self.pipeline.run(Experience(episodes=episodes, lineages=lineages))
        await self._log_pipeline(experience, step)
        return experience

    async def _lineages(self, episodes: Sequence[Episode], store: Store) -> dict[str | None, PolicyLineage]:
        """Of the runs that the rollouts belong to; each is read once, and anew after this run has loaded weights."""
        for run_id in {one.rollout.run_id for one in episodes} - self.lineages.keys():
            if run_id is not None:
                with suppress(NotFound):  # agents may put their rollouts under any name
                    self.lineages[run_id] = lineage_of(await store.runs.events(run_id))
        return dict(self.lineages)

    async def _log_pipeline(self, experience: Experience, step: int) -> None:
        stages: Json = msgspec.to_builtins(experience.reports)
        await self._record("pipeline", f"step {step}", data={"step": step, "stages": stages})

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        """See `TrainingContext.evaluate`."""
        tasks = self.val if tasks is None else tasks
        if not tasks:
            raise ConfigError("there is nothing to evaluate on; give held-out tasks (val=… or --val FILE)")
        self.observers.notify(PhaseStarted(name=f"evaluate {label}", total=len(tasks), unit="rollouts"))
        # the same seed at every evaluation: differences come from the resources, not from the draw
        rollouts = await self.rollouts(tasks, mode=Mode.VAL, step=0, resources=resources)
        report = await self._report(rollouts)
        summary: dict[str, Json] = {
            "mean": report.mean,
            "low": report.low,
            "high": report.high,
            "n": report.n,
            "failures": dict(report.failures),
            "decoding": report.decoding,
            "rollout_ids": list(report.rollout_ids),
        }
        await self.store.runs.update(self.run.id, summary={label: summary})
        await self.log({f"eval/{label}": report.mean}, step=step)
        self.observers.notify(Evaluated(label=label, step=step, report=report))
        return report

    async def _report(self, rollouts: Sequence[Rollout]) -> EvaluationReport:
        episodes = await read_episodes(self.store, rollouts)
        self.meter.count(episodes)
        judged = self.pipeline.upto("rewards").run(Experience(episodes=episodes))
        by_rollout = {trajectory.rollout.id: trajectory.outcome for trajectory in judged.trajectories}
        outcomes: list[float | None] = []
        failures: dict[str, int] = {}
        for rollout in rollouts:
            outcome = by_rollout.get(rollout.id)
            outcomes.append(outcome)
            if outcome is None:
                kind = rollout.failure.kind.value if rollout.failure else "no_reward"
                failures[kind] = failures.get(kind, 0) + 1
        scored = [outcome for outcome in outcomes if outcome is not None]
        mean, low, high = mean_interval(scored)
        return EvaluationReport(
            mean=mean,
            low=low,
            high=high,
            n=len(scored),
            failures=failures,
            outcomes=tuple(outcomes),
            rollout_ids=tuple(rollout.id for rollout in rollouts),
            decoding=self._decoding(),
        )

    def _decoding(self) -> str:
        sampling = self.sampling.get(Mode.VAL, Sampling())
        if sampling.temperature is None:
            return "as the agent asks"
        return "greedy" if sampling.temperature == 0 else f"sampled at temperature {sampling.temperature:g}"

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        """See `TrainingContext.publish`."""
        parent = await self.store.resources.live()
        return await self.store.resources.publish(
            resources,
            parent=parent.id if parent else None,
            state=ResourceState.LIVE if live else ResourceState.CANDIDATE,
            run_id=self.run.id,
            step=step,
        )

    async def load_weights(self, directory: Path, *, origin: str, was: int | None = None) -> None:
        """Puts weights back into the learner, if there is one; they are served under a version of their own.

        Args:
            directory: What the learner saved.
            origin: What that was, for people.
            was: Policy version of this run that they had; None if they are of another.
        """
        if self.learner is None or self.engine is None:
            return
        await self.learner.load_state(directory)
        await self.tell_weights(f"is loaded from {origin}", was=was)

    async def tell_weights(self, how: str, *, was: int | None) -> None:
        """Records that the present policy version is not one update of the one before."""
        if self.engine is None or self.learner is None:
            return
        version = self.engine.version
        data = dict(loading(version, was=was))
        await self._record(WEIGHTS_EVENT, f"policy version {version} {how}", data=data)
        self.lineages.pop(self.run.id, None)

    @asynccontextmanager
    async def weight_update(self) -> AsyncIterator[None]:
        """See `TrainingContext.weight_update`."""
        if self.gateway is None:
            yield
            return
        async with self.gateway.paused():
            await self._log_canaries(self.gateway.canaries)
            yield

    async def _log_canaries(self, scores: Sequence[CanaryScore]) -> None:
        """How far each publish has moved the sampler, under the version that it led to."""
        for score in scores:
            if score.change is not None and score.version > self.canary_version:
                self.canary_version = score.version
                point = MetricPoint(
                    name="canary/logprob_change", step=score.version, value=score.change, time=time.time()
                )
                await self.store.runs.log(self.run.id, points=[point])

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """See `TrainingContext.log`."""
        wrong = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if wrong:
            raise NumericalError(f"step {step} of run {self.run.id}: metrics are not finite: {wrong!r}")
        now = time.time()
        points = [
            MetricPoint(name=name, step=step, value=float(value), time=now) for name, value in metrics.items()
        ]
        await self.store.runs.log(self.run.id, points=points)
        self.observers.notify(MetricsLogged(step=step, metrics=metrics))

    async def phase(self, name: str, *, total: int | None = None) -> None:
        """See `TrainingContext.phase`."""
        await self._record("phase", name)
        self.observers.notify(PhaseStarted(name=name, total=total))

    async def event(self, kind: str, message: str) -> None:
        """See `TrainingContext.event`."""
        await self._record(kind, message)
        self.observers.notify(EventLogged(kind=kind, message=message))

    async def _record(self, kind: str, message: str, *, data: dict[str, Json] | None = None) -> None:
        event = RunEvent(kind=kind, message=message, time=time.time(), data=data or {})
        await self.store.runs.log(self.run.id, events=[event])

    async def _write_checkpoint(self, final: Path, manifest: Mapping[str, Json]) -> None:
        """Written beside its place and moved there whole."""
        part = final.with_name(f"{final.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        part.mkdir(parents=True)
        if self.learner is not None:
            await self.learner.save_state(part)
        (part / "run.json").write_text(json.dumps(manifest, allow_nan=False))
        part.rename(final)

    async def finish(self, status: RunStatus, *, error: str | None = None) -> None:
        """Settles how the run ended; the first word counts."""
        if self.run.status is not RunStatus.RUNNING:
            return
        spent = self.meter.spent()
        self.run = await self.store.runs.update(self.run.id, status=status, summary=spent, error=error)
        self.observers.notify(RunFinished(run=self.run))

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        """See `TrainingContext.checkpoint`."""
        self.serial += 1
        root = self.directory / "checkpoints"
        final = root / f"{self.serial:06d}"
        spent = self.meter.spent()
        version = self.engine.version if self.engine else None
        manifest: dict[str, Json] = {
            "step": step,
            "serial": self.serial,
            "version": version,
            "state": dict(state),
            "spent": self.meter.manifest(),
        }
        try:
            await self._write_checkpoint(final, manifest)
        except OSError as error:
            raise StoreUnavailable(
                f"checkpoint {str(final)!r} cannot be written ({error.strerror or error}); free some space and go on "
                f"from the one before with: {resume_command(self.run.id, self.store)}"
            ) from error
        self.run = await self.store.runs.update(
            self.run.id, checkpoint=Checkpoint(step=step, path=str(final)), summary=spent
        )
        self.saved_version = self.engine.version if self.engine else -1
        for old in sorted(root.iterdir())[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)
        self.raise_if_stopped()


def resume_command(run_id: str, store: Store) -> str:
    """The command that goes on with a run. A store's URL carries no password, which is asked of the environment."""
    command = f"agl runs resume {run_id} --store {store.url}"
    return f"{command} (password in PGPASSWORD)" if store.url.startswith("postgres") else command
