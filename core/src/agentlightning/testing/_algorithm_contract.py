"""What every algorithm that trains weights must do: subclass `AlgorithmContract` in a test module."""

# ruff: noqa: S101  (a contract kit asserts)
from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path

from agentlightning.algorithm import Algorithm
from agentlightning.engine import OptimizerConfig
from agentlightning.errors import ConfigError
from agentlightning.store import Store, open_store
from agentlightning.testing._episode_builder import EpisodeBuilder
from agentlightning.testing._training import InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import Json


class AlgorithmContract:
    """Tests that an algorithm refuses what it does not know, repeats itself, resumes, and changes weights safely."""

    def create(self, params: Mapping[str, Json]) -> Algorithm:
        """Builds the algorithm, as its spec's target does."""
        raise NotImplementedError

    def params(self, folder: Path) -> dict[str, Json]:
        """Parameters of a run of a few steps with at least two checkpoints; files may be put into the folder."""
        raise NotImplementedError

    def play(self, task: Json, episode: EpisodeBuilder, version: int) -> None:
        """Plays a rollout: one call, and a success that depends on nothing but the rollout's id."""
        generator = random.Random(f"{episode.rollout_id}/{task}")
        episode.call([1, 2], [generator.randrange(9) for _ in range(3)], version=version)
        episode.reward(float(generator.random() < 0.5))

    def context(self, store: Store, **changes: Mapping[str, Json] | Path) -> InMemoryTrainingContext:
        """A run with five tasks and two held-out ones."""
        engine = InMemoryEngine()
        context = InMemoryTrainingContext(
            play=self.play, store=store, train=list(range(5)), val=[5, 6], engine=engine
        )
        for name, value in changes.items():
            setattr(context, name, value)
        context.learner = _GuardedLearner(context=context, engine=engine)
        return context

    def test_it_has_a_name(self, tmp_path: Path) -> None:
        """The name is what `--algorithm` takes."""
        assert self.create(self.params(tmp_path)).name

    def test_an_unknown_setting_is_refused(self, tmp_path: Path) -> None:
        """A mistyped key must not be taken for silence."""
        try:
            self.create(self.params(tmp_path) | {"no_such_setting": 1})
        except ConfigError as error:
            assert "no_such_setting" in str(error)  # noqa: PT017
        else:
            raise AssertionError("an unknown setting was accepted")

    async def test_metrics_are_finite_and_in_order(self, tmp_path: Path) -> None:
        """The store takes nothing else."""
        done = await self._run(tmp_path)
        assert done.logged
        assert all(math.isfinite(value) for _, metrics in done.logged for value in metrics.values())
        assert [step for step, _ in done.logged] == sorted({step for step, _ in done.logged})

    async def test_the_same_seed_gives_the_same(self, tmp_path: Path) -> None:
        """All randomness derives from the run's seed."""
        one, other = await self._run(tmp_path), await self._run(tmp_path)
        assert one.logged == other.logged
        assert one.checkpoints == other.checkpoints

    async def test_weights_change_only_during_a_weight_update(self, tmp_path: Path) -> None:
        """Otherwise a call in flight would be sampled by two policies."""
        done = await self._run(tmp_path)
        assert isinstance(done.learner, _GuardedLearner)
        assert done.learner.unguarded == 0

    async def test_a_resumed_run_does_what_an_uninterrupted_one_does(self, tmp_path: Path) -> None:
        """From the first checkpoint on: the same metrics, and no evaluation from before it again."""
        whole = await self._run(tmp_path, directory=tmp_path / "checkpoints")
        step, state = whole.checkpoints[0]
        resumed = await self._run(tmp_path, state=state, weights=tmp_path / "checkpoints" / str(step))
        assert len(resumed.logged) < len(whole.logged)
        assert resumed.logged == whole.logged[-len(resumed.logged) :]
        assert resumed.checkpoints == whole.checkpoints[1:]
        assert "before" not in resumed.reports

    async def _run(
        self, folder: Path, *, weights: Path | None = None, **changes: Mapping[str, Json] | Path
    ) -> InMemoryTrainingContext:
        async with open_store("memory://") as store:
            context = self.context(store, **changes)
            if weights is not None and context.learner is not None:
                await context.learner.load_state(weights)
            await self.create(self.params(folder)).fit(context)
            return context


class _GuardedLearner(InMemoryLearner):
    """Counts changes of weights outside of a weight update."""

    def __init__(self, *, context: InMemoryTrainingContext, engine: InMemoryEngine) -> None:
        super().__init__(engine=engine)
        self.unguarded = 0
        self._context = context

    async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        self.unguarded += not self._context.updating
        return await super().optim_step(config)

    async def publish(self) -> int:
        self.unguarded += not self._context.updating
        return await super().publish()
