"""A part's own selection: the agents that it learns from, and the resources that it may change."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec

from agentlightning.algorithm import Algorithm, TrainingContext
from agentlightning.compose._context import PartContext
from agentlightning.compose._resources import recorded
from agentlightning.errors import ConfigError
from agentlightning.store import Store
from agentlightning.types import (
    Experience,
    Resource,
    ResourceSet,
    Rollout,
    TokenForest,
    TokenTree,
    Trajectory,
)


class SelectingAlgorithm:
    """An algorithm that learns from some agents only, or may change some resources only.

    Args:
        algorithm: Any.
        agents: Names of the agents whose decisions it learns from; empty is all.
        resources: Names of the resources that it may change; empty is all.
    """

    def __init__(
        self, algorithm: Algorithm, *, agents: Sequence[str] = (), resources: Sequence[str] = ()
    ) -> None:
        self.name = algorithm.name
        self._algorithm = algorithm
        self._agents = frozenset(agents)
        self._resources = frozenset(resources)

    async def fit(self, context: TrainingContext) -> None:
        """Runs the algorithm on what it may see.

        Raises:
            ConfigError: It changes a resource that is not its own.
        """
        part = _Part(context, name=self.name, agents=self._agents, resources=self._resources)
        await self._algorithm.fit(part)


class _Part(PartContext):
    def __init__(
        self,
        whole: TrainingContext,
        *,
        name: str,
        agents: Collection[str],
        resources: Collection[str],
    ) -> None:
        super().__init__(whole, state=whole.state)
        self._name = name
        self._agents = agents
        self._resources = resources

    async def experience(
        self, rollouts: Sequence[Rollout], *, step: int = 0, source: Store | None = None
    ) -> Experience:
        found = await self._whole.experience(rollouts, step=step, source=source)
        return selected(found, agents=self._agents) if self._agents else found

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        if self._resources:
            current = await self.store.resources.live()
            known = current.resources if current else {}
            for name, record in recorded(resources).items():
                if name not in self._resources and record != known.get(name):
                    raise ConfigError(
                        f"{self._name!r} changes resource {name!r}, and its own are "
                        f"{sorted(self._resources)!r}; add it to them, or leave it to others"
                    )
        return await self._whole.publish(resources, step=step, live=live)


def selected(experience: Experience, *, agents: Collection[str]) -> Experience:
    """The experience with the decisions of some agents only; what the others did is context.

    Rollouts and groups stay whole, with credits as they are, so that comparisons see every rollout.
    """
    trajectories = tuple(_of_agents(one, agents) for one in experience.trajectories)
    groups = tuple(
        msgspec.structs.replace(
            group, trajectories=tuple(_of_agents(one, agents) for one in group.trajectories)
        )
        for group in experience.groups
    )
    known = (*trajectories, *(one for group in groups for one in group.trajectories))
    kept = {decision.id for trajectory in known for decision in trajectory.transitions}
    return replace(
        experience,
        trajectories=trajectories,
        groups=groups,
        forest=experience.forest and _of_calls(experience.forest, kept),
        chats=tuple(one for one in experience.chats if one.agent in agents),
        preferences=tuple(one for one in experience.preferences if one.agent in agents),
    )


def _of_agents(trajectory: Trajectory, agents: Collection[str]) -> Trajectory:
    kept = tuple(one for one in trajectory.transitions if one.agent in agents)
    return msgspec.structs.replace(trajectory, transitions=kept)


def _of_calls(forest: TokenForest, kept: Collection[str]) -> TokenForest:
    trees = tuple(
        replace(tree, calls=tuple(call for call in tree.calls if call.transition_id in kept))
        for tree in forest.trees
    )
    return replace(forest, trees=trees, tokens_in=sum(_tokens(tree) for tree in trees))


def _tokens(tree: TokenTree) -> int:
    """Tokens of its calls before merging, prompts and responses."""
    prompts = (tree.positions[call.prompt_node] + 1 for call in tree.calls if call.prompt_node >= 0)
    return sum(prompts) + sum(call.stop - call.start for call in tree.calls)
