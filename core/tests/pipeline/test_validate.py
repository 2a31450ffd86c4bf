from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentlightning.errors import ConfigError
from agentlightning.pipeline import Pipeline
from agentlightning.pipeline._validate import Validate
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, FailureClass, Json, StageReport, Trajectory

if TYPE_CHECKING:
    from core.tests.pipeline.conftest import Run


def judged(
    number: int, outcome: float | None, decision: float | None = None, **dimensions: float
) -> EpisodeBuilder:
    build = EpisodeBuilder(rollout_id=f"r{number}", group="g", sample=number)
    call = build.call([1], [2])
    if outcome is not None:
        build.reward(outcome)
    for name, value in dimensions.items():
        build.reward(value, dimension=name)
    if decision is not None:
        build.reward(decision, target=call)
    return build


def report(done: Experience, stage: str = "validate") -> StageReport:
    return next(report for report in done.reports if report.stage == stage)


def kept(done: Experience) -> list[str]:
    return [one.rollout.id for one in done.trajectories]


def test_rewards_out_of_their_declared_range_train_nothing(run: Run) -> None:
    builders = [judged(0, 0.5), judged(1, 1.5), judged(2, 0.0, 3.0), judged(3, 1.0)]
    done = run(*builders, upto="validate", validate={"outcome": [0, 1], "decision": [-1, 1]})
    assert kept(done) == ["r0", "r3"]
    assert report(done).dropped == {
        "the outcome is out of its range [0.0, 1.0]": 1,
        "the reward of a decision is out of its range [-1.0, 1.0]": 1,
    }
    assert report(done).ids["the outcome is out of its range [0.0, 1.0]"] == ("r1-1",)


def test_each_dimension_has_a_range_of_its_own(run: Run) -> None:
    builders = [judged(n, None, correct=1.0, brief=brief) for n, brief in enumerate((5.0, 50.0))]
    done = run(*builders, upto="validate", validate={"ranges": {"brief": [0, 10], "never": [0, 1]}})
    assert kept(done) == ["r0"]
    assert report(done).dropped == {"the outcome in dimension 'brief' is out of its range [0.0, 10.0]": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["outcome", "outcomes", "decision"])
def test_what_is_not_finite_trains_nothing_and_never_counts_as_zero(
    value: float, where: str, run: Run
) -> None:
    done = run(judged(0, 0.0), judged(1, 1.0), upto="rewards")
    good, bad = done.trajectories
    broken = Pipeline((Validate({}),)).run(Experience(trajectories=(good, _broken(bad, where, value))))
    assert kept(broken) == ["r0"]
    (reason,) = report(broken).dropped
    assert "is not finite" in reason


def _broken(trajectory: Trajectory, where: str, value: float) -> Trajectory:
    match where:
        case "outcome":
            return msgspec.structs.replace(trajectory, outcome=value)
        case "outcomes":
            return msgspec.structs.replace(trajectory, outcomes={"reward": value})
        case _:
            (only,) = trajectory.transitions
            return msgspec.structs.replace(
                trajectory, transitions=(msgspec.structs.replace(only, reward=value),)
            )


@pytest.mark.parametrize(("missing", "left"), [("drop", []), ("keep", ["r0"])])
def test_a_trajectory_without_any_reward_is_missing(missing: str, left: list[str], run: Run) -> None:
    found = run(judged(0, None), upto="transitions").trajectories
    done = Pipeline((Validate({"missing": missing}),)).run(Experience(trajectories=found))
    assert kept(done) == left
    assert (report(done).dropped, report(done).remarks) == (
        ({"no reward": 1}, {}) if missing == "drop" else ({}, {"no reward": 1})
    )


@pytest.mark.parametrize(("policy", "left"), [("keep", 3), ("drop", 0)])
def test_a_reward_that_is_the_same_for_everything_is_noticed(policy: str, left: int, run: Run) -> None:
    done = run(*(judged(n, 1.0) for n in range(3)), upto="validate", validate={"all_equal": policy})
    assert len(done.trajectories) == left
    assert {**report(done).dropped, **report(done).remarks} == {"all outcomes of the batch are equal": 3}
    told_apart = run(*(judged(n, 1.0, float(n)) for n in range(3)), upto="validate")
    assert report(told_apart).remarks == {}
    assert report(run(judged(0, 1.0), upto="validate")).remarks == {}


def test_a_range_is_least_and_greatest(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"range of 'outcome' is \[least, greatest\], got \[1.0, 0.0\]"):
        run(validate={"outcome": [1, 0]})


@pytest.mark.parametrize(
    ("failures", "outcome", "reason"),
    [
        ({}, None, "failed: lost"),
        ({"lost": "excluded"}, None, "failed: lost"),
        ({"lost": "retried"}, None, "failed: lost, after 1 of 3 attempts"),
        ({"lost": -1}, -1.0, None),
        ({"agent_error": -1}, None, "failed: lost"),
    ],
)
def test_failures_are_excluded_retried_or_scored_and_never_zero_by_silence(
    failures: dict[str, Json], outcome: float | None, reason: str | None, run: Run
) -> None:
    build = EpisodeBuilder(failure=FailureClass.LOST)
    build.reward(1.0)
    done = run(build, upto="rewards", rewards={"failures": failures})
    assert [one.outcome for one in done.trajectories] == ([outcome] if outcome is not None else [])
    assert report(done, "rewards").dropped == ({reason: 1} if reason else {})


def test_a_class_that_the_rollout_does_not_retry_is_said_so(run: Run) -> None:
    build = EpisodeBuilder(failure=FailureClass.AGENT_ERROR)
    done = run(build, upto="rewards", rewards={"failures": {"agent_error": "retried"}})
    assert report(done, "rewards").dropped == {
        "failed: agent_error, which retry_on of the rollout does not name": 1
    }
