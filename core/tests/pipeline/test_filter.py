from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Episode, Experience, PolicyLineage

if TYPE_CHECKING:
    from core.tests.pipeline.conftest import Run


def rollout(
    group: str,
    sample: int,
    outcome: float,
    *,
    version: int = 0,
    prompt: int = 1,
    answer: int = 1,
    calls: int = 1,
) -> EpisodeBuilder:
    build = EpisodeBuilder(rollout_id=f"{group}{sample}", group=group, sample=sample)
    for _ in range(calls):
        build.call([1] * prompt, [2] * answer, version=version)
    build.reward(outcome)
    return build


def group_of(name: str, *outcomes: float) -> list[EpisodeBuilder]:
    return [rollout(name, sample, outcome) for sample, outcome in enumerate(outcomes)]


def kept(done: Experience) -> list[str]:
    found = [one.rollout.id for group in done.groups for one in group.trajectories]
    assert sorted(found) == sorted(one.rollout.id for one in done.trajectories)
    assert all(group.trajectories for group in done.groups)
    return found


def dropped(done: Experience, stage: str) -> dict[str, int]:
    return next(report.dropped for report in done.reports if report.stage == stage)


@pytest.mark.parametrize(
    ("params", "left", "reason"),
    [
        ({"max_staleness": 1}, ["g0", "g1"], "a call is more than 1 versions old"),
        ({"max_tokens": 9}, ["g0", "g2"], "a call has more than 9 tokens"),
        ({"max_answer_tokens": 3}, ["g0", "g1"], "more than 3 tokens were sampled"),
        ({"max_calls": 1}, ["g0", "g1"], "more than 1 decisions"),
        ({"max_staleness": 1, "whole_groups": True}, [], "a call is more than 1 versions old"),
    ],
)
def test_old_and_long_rollouts_are_left_out_whole(
    params: dict[str, object], left: list[str], reason: str, run: Run
) -> None:
    builders = [
        rollout("g", 0, 1.0, version=5),
        rollout("g", 1, 0.0, version=4, prompt=9),
        rollout("g", 2, 0.0, version=3, answer=2, calls=2),
    ]
    done = run(*builders, filter=params)
    assert kept(done) == left
    assert dropped(done, "filter")[reason] == 1
    assert sum(dropped(done, "filter").values()) == 3 - len(left)


RESUMED = {9: 4}
"""Version 9 is 4 again: 5 to 8 were given by a process that was killed before it saved them."""


@pytest.mark.parametrize(
    ("loaded", "versions", "left"),
    [
        ({}, [10, 4], ["g0"]),
        (RESUMED, [10, 4], ["g0", "g1"]),  # one update later
        (RESUMED, [11, 4, 9, 10], ["g0", "g3"]),
        (RESUMED, [10, 5, 6], ["g0"]),  # lost weights: 1 + 1 and 1 + 2 updates away
        (RESUMED, [9, 8, 5], ["g0", "g2"]),
        ({9: None}, [9, 8], ["g0"]),  # other weights altogether
        ({9: None}, [10, 9], ["g0", "g1"]),
        (RESUMED, [9, -1], ["g0"]),  # of an unknown version
    ],
)
def test_age_is_counted_in_updates_of_the_weights(
    loaded: dict[int, int | None], versions: list[int], left: list[str]
) -> None:
    episodes = [rollout("g", sample, 1.0, version=version).build() for sample, version in enumerate(versions)]
    assert fresh(*episodes, lineages={None: PolicyLineage(loaded=loaded)}) == left


def test_versions_of_two_runs_are_not_compared() -> None:
    episodes = [
        rollout("g", sample, 1.0, version=version).build() for sample, version in enumerate([500, 3, 1])
    ]
    other = msgspec.structs.replace(episodes[0].rollout, run_id="elsewhere")
    assert fresh(msgspec.structs.replace(episodes[0], rollout=other), *episodes[1:]) == ["g0", "g1"]


def fresh(*episodes: Episode, lineages: Mapping[str | None, PolicyLineage] | None = None) -> list[str]:
    """What is at most one update older than the newest of its run."""
    pipeline = Pipeline.from_specs(
        {spec.name: spec for spec in BUILTIN_STAGES},
        load=lambda spec: load_target(spec.target),
        chosen=[(spec.name, {}) for spec in BUILTIN_STAGES if spec.default]
        + [("filter", {"max_staleness": 1})],
    )
    return kept(pipeline.run(Experience(episodes=episodes, lineages=lineages or {})))


def test_what_stays_has_trees_of_its_own_only(run: Run) -> None:
    done = run(*group_of("g", 1.0, 0.0), *group_of("h", 1.0, 1.0), filter={"zero_variance": True})
    assert done.forest is not None
    assert [tree.group for tree in done.forest.trees] == ["g"]
    assert dropped(done, "filter") == {"all returns of its group are equal": 2}


def test_equal_outcomes_with_different_credits_are_still_worth_comparing(run: Run) -> None:
    first, second = group_of("g", 1.0, 1.0)
    first.reward(1.0, target=f"{1:016x}")
    second.call([1, 2, 3], [4])
    builders = [first, second]
    assert kept(run(*builders, filter={"zero_advantage": True})) == []
    credit = {"mode": "discounted", "discount": 0.5}
    assert kept(run(*builders, credit=credit, filter={"zero_advantage": True})) == ["g0", "g1"]
    assert kept(run(*builders, credit={"mode": "per_step"}, filter={"zero_variance": True})) == ["g0", "g1"]


def test_incomplete_groups_are_left_out_whole(run: Run) -> None:
    done = run(*group_of("g", 1.0, 0.0), *group_of("h", 1.0), group={"size": 2})
    assert kept(done) == ["g0", "g1"]
    assert dropped(done, "group") == {"its group has fewer than 2": 1}
    assert kept(run(*group_of("g", 1.0))) == ["g0"]


def test_groups_that_are_too_easy_or_too_hard_are_left_out(run: Run) -> None:
    groups = [*group_of("easy", 1.0, 0.9), *group_of("hard", 0.0, 0.2), *group_of("right", 0.0, 0.6)]
    done = run(*groups, balance={"lowest": 0.1, "highest": 0.9})
    assert kept(done) == ["right0", "right1"]
    assert dropped(done, "balance") == {"pass rate above 0.9": 2, "pass rate below 0.1": 2}
    assert kept(run(*groups, balance={"lowest": 0.1, "passed": 0.1})) == [
        *("easy0", "easy1", "hard0", "hard1", "right0", "right1")
    ]


def test_the_groups_closest_to_the_target_are_taken_in_their_order(run: Run) -> None:
    groups = [
        *group_of("a", 1.0, 1.0),
        *group_of("b", 0.0, 1.0),
        *group_of("c", 0.0, 0.0),
        *group_of("d", 1.0, 0.0),
    ]
    assert kept(run(*groups, balance={"most": 3})) == ["a0", "a1", "b0", "b1", "d0", "d1"]
    assert kept(run(*groups, balance={"most": 1, "target": 0.0})) == ["c0", "c1"]


def test_a_missing_outcome_is_no_failure_to_pass(run: Run) -> None:
    unjudged = EpisodeBuilder(rollout_id="u", group="u")
    unjudged.reward(1.0, target=unjudged.call([1], [2]))
    done = run(unjudged, *group_of("g", 1.0), credit={"mode": "per_step"}, balance={"most": 9})
    assert kept(done) == ["g0"]
    assert dropped(done, "balance") == {"no outcome, so no pass rate": 1}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(0, 8),
    strategy=st.sampled_from(["uniform", "recent", "spread"]),
    seed=st.integers(0, 3),
    shuffle=st.randoms(use_true_random=False),
)
def test_replay_draws_the_same_whole_groups_in_whatever_order_they_come(
    count: int, strategy: str, seed: int, shuffle: random.Random, run: Run
) -> None:
    builders = [one for place, name in enumerate("abcdef") for one in group_of(name, 0.0, place / 4)]
    params: dict[str, object] = {"groups": count, "strategy": strategy, "seed": seed}
    done = run(*builders, replay=params)
    assert len(done.groups) == min(count, 6)
    assert all(len(group.trajectories) == 2 for group in done.groups)
    assert sum(dropped(done, "replay").values()) == 12 - 2 * len(done.groups)
    again = run(*shuffle.sample(builders, len(builders)), replay=params)
    assert {group.key for group in again.groups} == {group.key for group in done.groups}


def test_replay_without_a_count_takes_all_and_refuses_what_it_does_not_use(run: Run) -> None:
    assert kept(run(*group_of("g", 1.0, 0.0), replay={})) == ["g0", "g1"]
    with pytest.raises(ConfigError, match="strategy 'uniform' does not use 'alpha'"):
        run(replay={"groups": 1, "alpha": 0.5})
