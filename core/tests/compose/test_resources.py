"""Resource sets of several parts as one, and parts that may not change or see everything."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.algorithm import TrainingContext
from agentlightning.compose import SelectingAlgorithm
from agentlightning.compose._resources import Owners
from agentlightning.errors import ConfigError
from agentlightning.store import open_store
from agentlightning.testing import EpisodeBuilder, InMemoryTrainingContext
from agentlightning.types import Experience, Json, PromptTemplate, ResourceRecord

names = st.sampled_from("vwxyz")
records = st.dictionaries(names, st.integers(0, 2).map(lambda n: ResourceRecord(kind="k", value={"n": n})))
Owned = Sequence[tuple[str, int]]


def owners_of(owned: dict[str, int]) -> Owners:
    owners = Owners(["0", "1", "2"])
    for name, part in owned.items():
        owners.restore(part, [name])
    return owners


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(names, st.integers(0, 2)), st.lists(records, min_size=3, max_size=3), st.integers(1, 3)
)
def test_every_resource_is_as_its_owner_has_it(
    owned: dict[str, int], sets: list[dict[str, ResourceRecord]], count: int
) -> None:
    owners = owners_of(owned)
    chosen, rest = dict(enumerate(sets[:count])), dict(enumerate(sets))
    found = owners.merged(chosen, rest=rest)
    for name, part in owned.items():
        assert found.get(name) == sets[part].get(name)
    for name in found.keys() - owned.keys():
        assert found[name] in [one[name] for one in chosen.values() if name in one]
    backwards = owners.merged(dict(reversed(chosen.items())), rest=rest)
    assert {name: backwards.get(name) for name in owned} == {name: found.get(name) for name in owned}
    assert owners.merged(dict.fromkeys(chosen, found), rest=dict.fromkeys(rest, found)) == found


def test_what_differs_from_what_is_live_is_claimed_and_old_copies_are_not() -> None:
    one, two, three = (ResourceRecord(kind="k", value={"n": n}) for n in range(3))
    owners = Owners(["a", "b"])
    owners.claim(0, {"x": one, "kept": one}, live={"kept": one})
    owners.claim(0, {"x": two}, live={})
    owners.claim(1, {"x": one, "y": one}, live={})
    assert (owners.of(0), owners.of(1)) == (["x"], ["y"])
    with pytest.raises(ConfigError, match="'b' and 'a' both change resource 'x'"):
        owners.claim(1, {"x": three}, live={})


class Looks:
    """Learns from one step, and publishes."""

    name = "looks"

    def __init__(self, resource: str = "own") -> None:
        self.resource = resource
        self.seen: Experience | None = None

    async def fit(self, context: TrainingContext) -> None:
        self.seen = await context.experience(await context.rollouts(context.train, samples=2))
        await context.publish({self.resource: PromptTemplate(template="new")})


def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
    del task, version
    episode.call([1, 2], [3, 4], agent="writer")
    episode.call([1, 2, 3, 4, 5], [6], agent="critic")
    episode.reward(1.0)


async def test_a_part_learns_from_its_own_agents_and_the_others_are_context() -> None:
    async with open_store("memory://") as store:
        context = InMemoryTrainingContext(play=play, store=store, train=[0, 1])
        whole, own = Looks(), Looks()
        await whole.fit(context)
        await SelectingAlgorithm(own, agents=["critic"]).fit(context)
    assert whole.seen is not None
    assert own.seen is not None
    assert whole.seen.forest is not None
    assert own.seen.forest is not None
    assert [len(one.transitions) for one in whole.seen.trajectories] == [2] * 4
    assert [[each.agent for each in one.transitions] for one in own.seen.trajectories] == [["critic"]] * 4
    assert [len(group.trajectories) for group in own.seen.groups] == [2, 2]
    kept = {one.id for trajectory in own.seen.trajectories for one in trajectory.transitions}
    assert {call.transition_id for tree in own.seen.forest.trees for call in tree.calls} == kept
    assert own.seen.forest.size == whole.seen.forest.size
    assert (whole.seen.forest.tokens_in, own.seen.forest.tokens_in) == (4 * (4 + 6), 4 * 6)


async def test_a_part_changes_its_own_resources_only() -> None:
    async with open_store("memory://") as store:
        context = InMemoryTrainingContext(play=play, store=store, train=[0])
        await SelectingAlgorithm(Looks(), resources=["own"]).fit(context)
        with pytest.raises(ConfigError, match=r"'looks' changes resource 'other', and its own are \['own'\]"):
            await SelectingAlgorithm(Looks("other"), resources=["own"]).fit(context)
