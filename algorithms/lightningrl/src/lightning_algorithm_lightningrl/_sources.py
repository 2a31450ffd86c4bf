"""Where the experience of an update comes from: rollouts in turn with updates, beside them, or stored ones."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from agentlightning.algorithm import TrainingContext
from agentlightning.engine import InferenceEngine
from agentlightning.errors import BudgetExhausted
from agentlightning.types import Experience, Json, Trajectory
from lightning_algorithm_lightningrl._advantage import is_flat_group
from lightning_algorithm_lightningrl._batch import response_column
from lightning_algorithm_lightningrl._config import LightningRLConfig
from lightning_algorithm_lightningrl._flow import Flow, PlayedGroup
from lightning_algorithm_lightningrl._modes import Order
from lightning_algorithm_lightningrl._replayed import Replayed, open_replayed
from lightning_algorithm_lightningrl._rollouts import Played, played
from lightning_algorithm_lightningrl._tasks import TaskOrder, choose_tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one update may learn from.

    Attributes:
        experience: As the pipeline made it.
        version: Policy version that is current; None where versions do not matter.
        metrics: What was carried over, replaced or left out.
    """

    experience: Experience
    version: int | None
    metrics: dict[str, float] = field(default_factory=dict)


class Source(Protocol):
    """Gives every update its experience."""

    async def take(self, step: int) -> Taken:
        """The experience of an update."""
        ...

    def state(self) -> dict[str, Json]:
        """For a checkpoint."""
        ...


@asynccontextmanager
async def open_source(
    context: TrainingContext, engine: InferenceEngine, config: LightningRLConfig
) -> AsyncIterator[Source]:
    """The source that the settings ask for, as the last checkpoint left it."""
    async with AsyncExitStack() as stack:
        if config.offline is not None:
            least = 2 if config.estimator.needs_group else 1
            found = await open_replayed(context, config.offline, least=least, stack=stack)
            yield Stored(context, found, config)
        elif config.flows:
            selection = config.selection
            order = TaskOrder(tasks=context.train, seed=context.seed, curriculum=selection.curriculum)
            flow = Flow(context, order=order, samples=config.group_size)
            stack.push_async_callback(flow.close)
            saved = context.state.get("source")
            state = saved if isinstance(saved, Mapping) else {}
            await flow.restore(state, skipped=engine.version - int(str(state.get("version", engine.version))))
            yield Flowing(context, engine, flow=flow, config=config)
        else:
            yield InTurn(context, engine, config)


class InTurn:
    """On-policy: a group of rollouts per task, all under one version of the policy."""

    def __init__(self, context: TrainingContext, engine: InferenceEngine, config: LightningRLConfig) -> None:
        self._context = context
        self._engine = engine
        self._config = config

    async def take(self, step: int) -> Taken:
        """Plays the tasks of the step."""
        context, config = self._context, self._config
        version = self._engine.version
        tasks = choose_tasks(context.train, count=config.tasks_per_update, step=step, seed=context.seed)
        rollouts = await context.rollouts(tasks, samples=config.group_size, step=step)
        return Taken(experience=await context.experience(rollouts, step=step), version=version)

    def state(self) -> dict[str, Json]:
        """Nothing: the step says it all."""
        return {}


class Stored:
    """Offline: groups of stored rollouts."""

    def __init__(self, context: TrainingContext, found: Replayed, config: LightningRLConfig) -> None:
        self._context = context
        self._found = found
        self._config = config

    async def take(self, step: int) -> Taken:
        """Draws the groups of the step."""
        drawn = self._found.draw(self._config.tasks_per_update, step=step, seed=self._context.seed)
        weights = {name: group.weight for group in drawn for name in group.rollouts}
        rollouts = await self._found.rollouts(list(weights), self._context.store)
        experience = await self._context.experience(rollouts, step=step, source=self._found.source)
        metrics = {"replay/groups": float(len(self._found.groups)), "replay/rollouts": float(len(rollouts))}
        if self._found.order is Order.PRIORITY:
            experience = _weighted(experience, weights)
            metrics["replay/weight"] = statistics.fmean(group.weight for group in drawn)
            metrics["replay/weight/min"] = min(group.weight for group in drawn)
        return Taken(experience=experience, version=None, metrics=metrics)

    def state(self) -> dict[str, Json]:
        """Nothing: step and seed say it all."""
        return {}


@dataclass(kw_only=True)
class _Kept:
    """Groups of an update, and why others are not in it."""

    groups: list[PlayedGroup] = field(default_factory=list)
    stale: int = 0
    replaced: int = 0


class Flowing:
    """Groups that are begun by themselves: beside the learner, or until enough of them teach something."""

    def __init__(
        self,
        context: TrainingContext,
        engine: InferenceEngine,
        *,
        flow: Flow,
        config: LightningRLConfig,
    ) -> None:
        self._context = context
        self._engine = engine
        self._flow = flow
        self._config = config

    async def take(self, step: int) -> Taken:
        """Whole groups, fresh enough, and as far as allowed none that is flat.

        Experience is made of all that the update is left with, so that stages which look at a whole batch see it.
        """
        flow = self._flow
        kept = _Kept()
        carried, passed_over = flow.ended, flow.order.passed_over
        while True:
            await self._fill(kept, step)
            rollouts = [rollout for group in kept.groups for rollout in group.rollouts]
            experience = _numbered_on(await self._context.experience(rollouts, step=step), kept.groups)
            version = self._engine.version
            self._learn_rates(kept, experience)
            if not self._sort_out(kept, experience, version=version):
                break
        return Taken(
            experience=experience,
            version=version,
            metrics={
                "groups/carried": float(carried),
                "groups/open": float(flow.open),
                "groups/stale": float(kept.stale),
                "groups/replaced": float(kept.replaced),
                "groups/passed_over": float(flow.order.passed_over - passed_over),
            },
        )

    def state(self) -> dict[str, Json]:
        """What is open, where the order of tasks is, and under which version."""
        return {**self._flow.state(), "version": self._engine.version}

    async def _fill(self, kept: _Kept, step: int) -> None:
        """Takes what is missing, and begins as many groups as can be learned from before they are stale.

        An update that is `n` updates away is learned with `n` times `passes` newer weights; so those that are open or
        kept are never more than the updates within `max_staleness` take (AReaL, arXiv 2505.24298, equation 3).
        """
        config = self._config
        missing = config.tasks_per_update - len(kept.groups)
        updates = min(config.max_staleness // config.passes + 1, config.updates - step)
        beside = updates * config.tasks_per_update - len(kept.groups) if config.max_staleness else 0
        self._flow.begin(most=max(beside, missing))
        try:
            kept.groups += await self._flow.take(missing)
        except BudgetExhausted:
            if not kept.groups:
                raise

    def _sort_out(self, kept: _Kept, experience: Experience, *, version: int) -> bool:
        """Takes out groups that are stale, or flat and may be replaced; whether there were any."""
        if experience.forest is None:
            return False
        places = {rollout.id: group.place for group in kept.groups for rollout in group.rollouts}
        teaching, stale = set[int](), set[int]()
        by_group = played(experience, forest=experience.forest, version=version)
        for group, rollouts in zip(experience.groups, by_group, strict=True):
            own = {places[one.rollout.id] for one in group.trajectories}
            if self._config.max_staleness and any(map(self._is_stale, rollouts)):
                stale |= own
            elif not is_flat_group(rollouts):
                teaching |= own
        flat = [group.place for group in kept.groups if group.place not in teaching | stale]
        replaced = set(flat[: self._config.selection.replace_flat - kept.replaced])
        kept.stale += len(stale)
        kept.replaced += len(replaced)
        kept.groups = [group for group in kept.groups if group.place not in stale | replaced]
        return bool(stale or replaced)

    def _is_stale(self, rollout: Played) -> bool:
        most = self._config.max_staleness
        return any(call.staleness is not None and not 0 <= call.staleness <= most for call in rollout.calls)

    def _learn_rates(self, kept: _Kept, experience: Experience) -> None:
        outcomes = {one.rollout.id: one.outcome for one in experience.trajectories}
        for group in kept.groups:
            found = [outcomes.get(rollout.id) for rollout in group.rollouts]
            self._flow.order.learned(group.place, [one for one in found if one is not None])


def _numbered_on(experience: Experience, groups: Sequence[PlayedGroup]) -> Experience:
    """The experience as if no version had been skipped, so that versions differ by as much as updates were made."""
    skipped = {rollout.id: group.skipped for group in groups for rollout in group.rollouts if group.skipped}
    if not skipped:
        return experience

    def numbered(one: Trajectory) -> Trajectory:
        by = skipped.get(one.rollout.id, 0)
        return msgspec.structs.replace(
            one,
            transitions=tuple(
                msgspec.structs.replace(
                    each, tokens=msgspec.structs.replace(each.tokens, version=each.tokens.version + by)
                )
                if by and each.tokens is not None and each.tokens.version >= 0
                else each
                for each in one.transitions
            ),
        )

    return replace(
        experience,
        trajectories=tuple(map(numbered, experience.trajectories)),
        groups=tuple(
            msgspec.structs.replace(group, trajectories=tuple(map(numbered, group.trajectories)))
            for group in experience.groups
        ),
    )


def _weighted(experience: Experience, weights: Mapping[str, float]) -> Experience:
    """The experience with a factor on the loss of each rollout, in the forest's weights."""
    if experience.forest is None:
        return experience
    factors = {
        call.transition_id: [weights[call.rollout_id]] * (call.stop - call.start)
        for tree in experience.forest.trees
        for call in tree.calls
    }
    column = response_column(experience.forest, factors)
    return replace(experience, forest=experience.forest.with_column("weights", column))
