"""Groups under way: whatever is slow, stopped and taken up again, each place is handed out once."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.store import open_store
from agentlightning.testing import EpisodeBuilder, InMemoryTrainingContext
from agentlightning.types import Json
from lightning_algorithm_lightningrl._flow import Flow
from lightning_algorithm_lightningrl._modes import Curriculum
from lightning_algorithm_lightningrl._tasks import TaskOrder

TASKS: list[Json] = list("abcde")


async def lives(delays: list[int], actions: list[tuple[int, int, bool]]) -> tuple[list[int], list[int]]:
    """Plays a flow through lives that end without warning; returns what was handed out and what is open at the end.

    Args:
        delays: Passes through the event loop that a place takes, over and over.
        actions: How many to begin, how many to take, and whether the process dies after its next checkpoint.
    """
    handed: list[int] = []
    saved: list[int] = []
    state: dict[str, Json] = {}
    async with open_store("memory://") as store:

        async def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
            place = int(episode.rollout_id.split("-")[1])
            for _ in range(delays[place % len(delays)]):
                await asyncio.sleep(0)

        def flow() -> Flow:
            context = InMemoryTrainingContext(play=play, store=store, train=TASKS)
            return Flow(context, order=TaskOrder(tasks=TASKS, seed=0), samples=1)

        current = flow()
        for begun, taken, dies in actions:
            current.begin(most=max(begun, taken))
            handed += [group.place for group in await current.take(taken)]
            if dies:  # what was handed out since the checkpoint is forgotten with the weights
                await current.close()
                handed, current = list(saved), flow()
                await current.restore(state)
            else:
                state, saved = current.state(), list(handed)
        final = current.state()
        await current.close()
    ended, under_way = final["ended"], final["under_way"]
    assert isinstance(ended, list)
    assert isinstance(under_way, list)
    return handed, [one["place"] for one in ended] + under_way


@settings(max_examples=60, deadline=None)
@given(
    delays=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    actions=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3), st.booleans()), min_size=1, max_size=7),
)
def test_no_place_is_lost_or_handed_out_twice(
    delays: list[int], actions: list[tuple[int, int, bool]]
) -> None:
    handed, left = asyncio.run(lives(delays, actions))
    counts = Counter(handed + left)
    assert set(counts.values()) <= {1}
    assert sorted(counts) == list(range(len(counts)))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 9),
    seed=st.integers(0, 99),
    rates=st.dictionaries(st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0])),
    stop=st.integers(0, 30),
)
def test_an_order_goes_on_where_it_was(count: int, seed: int, rates: dict[int, float], stop: int) -> None:
    def order() -> TaskOrder:
        return TaskOrder(tasks=list(range(count)), seed=seed, curriculum=Curriculum(keep=0.3))

    whole = order()
    whole.rates = {index: rate for index, rate in rates.items() if index < count}
    before = [whole.following() for _ in range(stop)]
    resumed = order()
    resumed.restore(whole.state())
    after = [whole.following() for _ in range(10)]
    assert [resumed.following() for _ in range(10)] == after
    assert before + after == sorted(set(before + after))


def test_every_epoch_has_every_task_and_a_curriculum_of_nothing_passes_over_nothing() -> None:
    order = TaskOrder(tasks=TASKS, seed=3, curriculum=Curriculum())
    places = [order.following() for _ in range(10)]
    assert places == list(range(10))
    assert Counter(order.task(place) for place in places[:5]) == Counter(TASKS)
    assert order.passed_over == 0
