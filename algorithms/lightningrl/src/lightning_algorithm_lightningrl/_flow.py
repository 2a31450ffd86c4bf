"""Groups of rollouts under way: begun in the order of the tasks, taken whole, carried over from update to update."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentlightning.algorithm import TrainingContext
from agentlightning.errors import BudgetExhausted
from agentlightning.store import RolloutQuery
from agentlightning.types import Json, Rollout
from lightning_algorithm_lightningrl._tasks import TaskOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedGroup:
    """A group whose rollouts have all ended.

    Attributes:
        place: Of its task in the order of the tasks; names the group in its run.
        rollouts: By sample.
        skipped: Policy versions since then that led to no newer weights: a run that goes on gives its weights new ones.
    """

    place: int
    rollouts: tuple[Rollout, ...]
    skipped: int = 0


class Flow:
    """Begins groups, and hands them out when all of their rollouts have ended.

    Each place of the order is begun once. What is neither handed out nor ended when a run is killed is begun anew when
    the run goes on; what had ended by the last checkpoint is handed out from the store.

    Args:
        context: What plays them.
        order: Which tasks come next.
        samples: Rollouts of a group.
    """

    def __init__(self, context: TrainingContext, *, order: TaskOrder, samples: int) -> None:
        self.order = order
        self._context = context
        self._samples = samples
        self._under_way: dict[int, asyncio.Task[PlayedGroup]] = {}
        self._ended: dict[int, PlayedGroup] = {}
        self._exhausted: BudgetExhausted | None = None

    @property
    def open(self) -> int:
        """Groups that are begun and not handed out."""
        return len(self._under_way) + len(self._ended)

    @property
    def ended(self) -> int:
        """Groups that wait to be handed out."""
        return len(self._ended)

    def begin(self, *, most: int) -> None:
        """Begins groups until `most` are open; none once the budget is exhausted."""
        while self.open < most and self._exhausted is None:
            self._begin(self.order.following())

    async def take(self, count: int) -> list[PlayedGroup]:
        """Waits for groups and hands them out, those that were begun first before others that have ended.

        Args:
            count: How many; fewer if the budget is exhausted.

        Raises:
            BudgetExhausted: There is not one left.
        """
        while len(self._ended) < count and self._under_way:
            await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)
            self._collect()
        if not self._ended and self._exhausted is not None:
            raise self._exhausted
        return [self._ended.pop(place) for place in sorted(self._ended)[:count]]

    async def close(self) -> None:
        """Gives up what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._under_way.clear()

    def state(self) -> dict[str, Json]:
        """For a checkpoint: what is open, and where the order is."""
        self._collect()
        ended = [
            {
                "place": group.place,
                "rollouts": [rollout.id for rollout in group.rollouts],
                "skipped": group.skipped,
            }
            for _, group in sorted(self._ended.items())
        ]
        return {**self.order.state(), "ended": ended, "under_way": sorted(self._under_way)}

    async def restore(self, state: Mapping[str, Json], *, skipped: int = 0) -> None:
        """Takes up what was open at a checkpoint.

        Args:
            state: What `state` gave.
            skipped: How much higher the policy version of the same weights is now.
        """
        self.order.restore(state)
        for known in _records(state.get("ended")):
            place = int(str(known["place"]))
            ids = known["rollouts"]
            found = await self._stored([str(one) for one in ids] if isinstance(ids, list) else [])
            if found:
                before = int(str(known.get("skipped", 0)))
                self._ended[place] = PlayedGroup(place=place, rollouts=found, skipped=before + skipped)
            else:
                self._begin(place)
        places = state.get("under_way")
        for place in places if isinstance(places, list) else ():
            self._begin(int(str(place)))

    def _begin(self, place: int) -> None:
        self._under_way[place] = asyncio.create_task(self._play(place), name=f"group-{place}")

    async def _play(self, place: int) -> PlayedGroup:
        rollouts = await self._context.rollouts([self.order.task(place)], samples=self._samples, step=place)
        return PlayedGroup(place=place, rollouts=tuple(rollouts))

    def _collect(self) -> None:
        """Moves groups that have ended; what else went wrong with one is raised."""
        for place, task in list(self._under_way.items()):
            if not task.done():
                continue
            del self._under_way[place]
            error = task.exception()
            if isinstance(error, BudgetExhausted):
                self._exhausted = error
            elif error is not None:
                raise error
            else:
                self._ended[place] = task.result()

    async def _stored(self, ids: Sequence[str]) -> tuple[Rollout, ...]:
        """The rollouts of a group in the given order; empty if one of them is gone."""
        page = await self._context.store.rollouts.list(RolloutQuery(ids=tuple(ids)), limit=max(1, len(ids)))
        found = {rollout.id: rollout for rollout in page.items}
        return tuple(found[one] for one in ids) if found.keys() == set(ids) else ()


def _records(value: Json) -> list[Mapping[str, Json]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
