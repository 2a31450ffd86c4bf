"""Groups of stored rollouts, drawn anew for every update."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from agentlightning import replay
from agentlightning.algorithm import TrainingContext
from agentlightning.errors import ConfigError
from agentlightning.jobs import open_configured
from agentlightning.plugins import load_plugins
from agentlightning.store import RolloutQuery, Store
from agentlightning.types import Mode, Rollout
from lightning_algorithm_lightningrl._modes import Offline, Order

_LEAST: Final = 1e-2
"""Priority of a group whose rewards are equal, in their unit: it is drawn seldom, not never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnGroup:
    """A group that an update learns from.

    Attributes:
        rollouts: Ids.
        weight: Factor on its part of the loss.
    """

    rollouts: tuple[str, ...]
    weight: float


class Replayed:
    """What a store has to learn from.

    Attributes:
        source: The store; None for the run's own.
        groups: Candidates by group, each to be compared in itself.
        order: How they are drawn.
    """

    def __init__(
        self, *, source: Store | None, groups: Mapping[str, Sequence[replay.Candidate]], chosen: Offline
    ) -> None:
        self.source = source
        self.groups = groups
        self.order = chosen.order
        self._chosen = chosen

    def draw(self, count: int, *, step: int, seed: int) -> list[DrawnGroup]:
        """`count` groups, or all there are; known from step and seed."""
        newest = [
            replay.Candidate(id=key, finished_at=max(one.finished_at for one in members))
            for key, members in self.groups.items()
        ]
        drawn = replay.draw(newest, self._strategy(count), count=count, seed=_seed(seed, step))
        return [
            DrawnGroup(rollouts=tuple(one.id for one in self.groups[each.candidate.id]), weight=each.weight)
            for each in drawn
        ]

    def _strategy(self, count: int) -> replay.Strategy:
        chosen = self._chosen
        match chosen.order:
            case Order.UNIFORM:
                return replay.Uniform()
            case Order.RECENT:
                return replay.Recent(window=chosen.window or count)
            case Order.PRIORITY:
                return replay.Proportional(
                    priorities={key: _spread(members) + _LEAST for key, members in self.groups.items()},
                    alpha=0.6 if chosen.exponent is None else chosen.exponent,
                    beta=1.0 if chosen.importance is None else chosen.importance,
                )

    async def rollouts(self, ids: Sequence[str], store: Store) -> list[Rollout]:
        """The rollouts in the order of their ids; what was deleted meanwhile is left out."""
        found: dict[str, Rollout] = {}
        cursor: str | None = None
        while ids:
            page = await (self.source or store).rollouts.list(
                RolloutQuery(ids=tuple(ids)), limit=1_000, cursor=cursor
            )
            found |= {rollout.id: rollout for rollout in page.items}
            cursor = page.cursor
            if cursor is None:
                break
        return [found[one] for one in ids if one in found]


async def open_replayed(
    context: TrainingContext, chosen: Offline, *, least: int, stack: AsyncExitStack
) -> Replayed:
    """Reads which groups there are, once: what is added to the store later is not seen.

    Args:
        context: The run.
        chosen: Which rollouts.
        least: Fewest rollouts of a group that can be compared.
        stack: Closes the store.

    Raises:
        ConfigError: There is no group to learn from.
    """
    source = await _opened(chosen.store, stack) if chosen.store else None
    found = await _candidates(source or context.store, context, chosen)
    groups: dict[str, list[replay.Candidate]] = {}
    for one in found:
        if one.reward is not None:
            groups.setdefault(one.group or one.id, []).append(one)
    fit = {key: members for key, members in sorted(groups.items()) if len(members) >= least}
    if not fit:
        where = f"runs {list(chosen.runs)!r}" if chosen.runs else "any run"
        raise ConfigError(
            f"offline: {where} of {(source or context.store).url} have {len(found)} finished rollouts for training, "
            f"and no group of at least {least} with rewards; name other runs (`agl runs list`), or take an advantage "
            "that compares no group, such as 'reinforce'"
        )
    return Replayed(source=source, groups=fit, chosen=chosen)


async def _opened(url: str, stack: AsyncExitStack) -> Store:
    return await stack.enter_async_context(open_configured(url, load_plugins()))


async def _candidates(store: Store, context: TrainingContext, chosen: Offline) -> list[replay.Candidate]:
    if not chosen.runs:
        found = await replay.candidates(store, RolloutQuery(mode=Mode.TRAIN))
        return [one for one in found if one.finished_at < context.run.created_at]
    found = []
    for run in chosen.runs:
        found += await replay.candidates(store, RolloutQuery(run_id=run, mode=Mode.TRAIN))
    return found


def _spread(members: Sequence[replay.Candidate]) -> float:
    """How far the rewards of a group are from their mean, on average."""
    rewards = [one.reward for one in members if one.reward is not None]
    mean = statistics.fmean(rewards)
    return statistics.fmean(abs(one - mean) for one in rewards)


def _seed(seed: int, step: int) -> int:
    digest = hashlib.blake2b(f"{seed}/offline/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
