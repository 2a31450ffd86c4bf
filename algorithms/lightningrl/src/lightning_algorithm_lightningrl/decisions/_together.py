"""Decisions above, tokens below: another algorithm's run, from whose rollouts decisions are learned as well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from agentlightning.algorithm import TrainingContext
from agentlightning.store import Store
from agentlightning.types import Experience, Json, Mode, ResourceSet, Rollout
from lightning_algorithm_lightningrl.decisions._config import DecisionsConfig
from lightning_algorithm_lightningrl.decisions._gate import Gate
from lightning_algorithm_lightningrl.decisions._learner import DecisionLearner

LEAD = "tokens"
"""Where the other algorithm's state is in a checkpoint."""
OWN = "decisions"


class SharedContext:
    """The context as the other algorithm sees it.

    Its training rollouts are pinned to the policy as it is now. Each time that it logs an update, the policy learns
    from the experience which that update was made of, and the numbers of both are logged at once. A checkpoint holds
    both states. Everything else is the run's own.

    Args:
        whole: The run.
        config: Settings.
        learner: What learns decisions.
        updates: Updates that the other algorithm makes.
    """

    def __init__(
        self, whole: TrainingContext, *, config: DecisionsConfig, learner: DecisionLearner, updates: int
    ) -> None:
        self._whole = whole
        self._config = config
        self._learner = learner
        self._gate = Gate(whole, config=config, learner=learner)
        self._updates = updates
        self._experience: Experience | None = None
        self._candidate: tuple[int, ResourceSet] | None = None
        self._publishing = asyncio.Lock()

    def __getattr__(self, name: str) -> object:
        return getattr(self._whole, name)

    @property
    def state(self) -> Mapping[str, Json]:
        """The other algorithm's own."""
        found = self._whole.state.get(LEAD)
        return found if isinstance(found, Mapping) else {}

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        """See `TrainingContext.rollouts`."""
        if mode is Mode.TRAIN and resources is None:
            resources = await self._current(step)
        return await self._whole.rollouts(tasks, samples=samples, mode=mode, step=step, resources=resources)

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        """See `TrainingContext.experience`. An update may look at several and is made of the last one."""
        self._experience = await self._whole.experience(rollouts, step=step, source=source)
        return self._experience

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """See `TrainingContext.log`."""
        experience, self._experience = self._experience, None
        own: dict[str, float] = {}
        if experience is not None:
            own = self._learner.learn(experience)
            done = self._learner.state.update
            if done % self._config.promote_every == 0 or done == self._updates:
                own |= await self._gate.judge(step=step)
        await self._whole.log({**metrics, **own}, step=step)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        """See `TrainingContext.checkpoint`."""
        await self._whole.checkpoint(step, {LEAD: dict(state), OWN: self._learner.saved()})

    async def _current(self, step: int) -> ResourceSet:
        """The policy as it is now, published once; rollouts may be asked for from several tasks at a time."""
        async with self._publishing:
            version = self._learner.state.update
            if self._candidate is None or self._candidate[0] != version:
                self._candidate = version, await self._gate.candidate(step=step)
            return self._candidate[1]
