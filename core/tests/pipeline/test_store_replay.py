"""The same spans give the same experience: twice, from either store, and before and after the process ended."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from agentlightning import semconv
from agentlightning._episodes import read_episodes
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.replay import Uniform, replay
from agentlightning.store import AttemptRecord, RolloutRecord, SpanRecord, Store, open_store
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, FailureClass, Json, SpanStatus

PARAMS: dict[str, dict[str, Json]] = {
    "signals": {"tool_error": -0.25, "tool_ok": 0.25},
    "credit": {"mode": "critic", "agents": {"a": {"mode": "group_by_state", "discount": 0.9}}},
    "filter": {"max_calls": 7, "zero_variance": True},
    "balance": {"most": 3},
    "replay": {"groups": 2, "strategy": "spread", "seed": 5},
    "chat": {},
    "preferences": {"pairs": "all"},
}
"""Every stage, with whatever in it is random, learned or sorted."""


def pipeline() -> Pipeline:
    return Pipeline.from_specs(
        {spec.name: spec for spec in BUILTIN_STAGES},
        load=lambda spec: load_target(spec.target),
        chosen=[(spec.name, PARAMS.get(spec.name, {})) for spec in BUILTIN_STAGES],
    )


def captured() -> list[EpisodeBuilder]:
    made = []
    for number in range(12):
        build = EpisodeBuilder(
            rollout_id=f"r{number:02}",
            group=f"g{number // 3}",
            sample=number % 3,
            failure=FailureClass.LOST if number == 7 else None,
        )
        path = [1, number // 3]
        for turn in range(2 + number % 2):
            agent = "ab"[turn % 2]
            build.span(semconv.OPERATION_STATE, attributes={semconv.STATE: {"turn": turn}})
            call = build.call(path, [5, number], agent=agent, logprobs=[-0.1 * number, -1 / 3])
            build.span(
                semconv.OPERATION_TOOL,
                parent=call,
                agent=agent,
                name=f"tool {turn}",
                status=SpanStatus.ERROR if number % 4 == 0 else SpanStatus.OK,
            )
            path = [*path, 5, number, turn]
        build.reward(number % 3 / 3)
        made.append(build)
    return made


async def fill(store: Store, builders: list[EpisodeBuilder]) -> None:
    for episode in (build.build() for build in builders):
        spans = [
            SpanRecord(span=msgspec.structs.replace(span, sequence=number))
            for number, span in enumerate(episode.spans, 1)
        ]
        await store.load(
            [RolloutRecord(rollout=episode.rollout), AttemptRecord(attempt=episode.attempt), *spans]
        )


async def digest(store: Store) -> str:
    rollouts = (await store.rollouts.list(limit=100)).items
    found = pipeline().run(Experience(episodes=await read_episodes(store, rollouts)))
    assert found.forest is not None
    assert found.forest.size > 0
    assert found.chats
    assert found.preferences
    hashed = hashlib.blake2b()
    for part in (found.trajectories, found.groups, found.chats, found.preferences, found.reports):
        hashed.update(msgspec.json.encode(part))
    for tree in found.forest.trees:
        hashed.update(msgspec.json.encode((tree.group, [msgspec.to_builtins(call) for call in tree.calls])))
        for column in (tree.token_ids, tree.parents, tree.positions, tree.logprobs, tree.versions):
            hashed.update(column.tobytes())
    return hashed.hexdigest()


async def test_two_runs_over_either_store_give_the_same_bit_for_bit(tmp_path: Path) -> None:
    digests = []
    for url in ("memory://", f"sqlite:///{tmp_path / 'agl.db'}"):
        async with open_store(url) as store:
            await fill(store, captured())
            digests += [await digest(store), await digest(store)]
    async with open_store(f"sqlite:///{tmp_path / 'agl.db'}") as opened_again:
        digests.append(await digest(opened_again))
    assert len(set(digests)) == 1


async def test_a_reward_more_is_another_experience() -> None:
    async with open_store("memory://") as store, open_store("memory://") as other:
        await fill(store, captured())
        more = captured()
        more[0].reward(0.125)
        await fill(other, more)
        assert await digest(store) != await digest(other)


@pytest.mark.parametrize("seed", [0, 1])
async def test_what_was_drawn_from_a_store_gives_the_same_again(seed: int, tmp_path: Path) -> None:
    async def drawn(store: Store) -> tuple[list[str], Experience]:
        rollouts = await replay(store, strategy=Uniform(), count=6, seed=seed)
        episodes = await read_episodes(store, rollouts)
        return [one.id for one in rollouts], pipeline().upto("forest").run(Experience(episodes=episodes))

    found = []
    for url in ("memory://", f"sqlite:///{tmp_path / 'agl.db'}"):
        async with open_store(url) as store:
            await fill(store, captured())
            found += list(await asyncio.gather(drawn(store), drawn(store)))
    assert all(one == found[0] for one in found)
