"""Stage `rewards`: what was said of a rollout becomes rewards of its decisions, and its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentlightning import semconv
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, FailureClass, RewardSource, Trajectory

if TYPE_CHECKING:
    from core.tests.pipeline.conftest import Run


def trajectory(experience: Experience) -> Trajectory:
    (found,) = experience.trajectories
    return found


def dropped(experience: Experience, stage: str) -> dict[str, int]:
    return next(report.dropped for report in experience.reports if report.stage == stage)


def test_the_last_outcome_of_a_dimension_counts(run: Run) -> None:
    build = EpisodeBuilder()
    build.reward(0.0)
    build.reward(1.0)
    assert trajectory(run(build)).outcome == 1.0


def test_a_grader_is_believed_before_the_agent(run: Run) -> None:
    build = EpisodeBuilder()
    build.reward(0.25, dimension="correct", source=RewardSource.GRADER)
    build.reward(1.0, dimension="correct", source=RewardSource.AGENT)
    build.reward(1.0, dimension="proud", source=RewardSource.AGENT)
    found = trajectory(run(build))
    assert (found.outcome, found.outcomes) == (0.25, {"correct": 0.25})
    assert len(found.rewards) == 3


def test_several_dimensions_without_weights_are_averaged(run: Run) -> None:
    build = EpisodeBuilder()
    build.reward(1.0, dimension="correct")
    build.reward(0.5, dimension="brief")
    assert trajectory(run(build)).outcome == 0.75


def test_weights_add_dimensions_up_and_ignore_the_others(run: Run) -> None:
    build = EpisodeBuilder()
    build.reward(1.0, dimension="correct")
    build.reward(0.5, dimension="brief", source=RewardSource.AGENT)
    build.reward(9.0, dimension="other")
    found = trajectory(run(build, rewards={"weights": {"correct": 1.0, "brief": -0.2}}))
    assert found.outcome == pytest.approx(0.9)


def test_with_weights_the_grader_is_believed_dimension_by_dimension(run: Run) -> None:
    build = EpisodeBuilder()
    build.reward(0.0, dimension="correct", source=RewardSource.GRADER)
    build.reward(1.0, dimension="correct", source=RewardSource.AGENT)
    build.reward(1.0, dimension="brief", source=RewardSource.AGENT)
    found = trajectory(run(build, rewards={"weights": {"correct": 1.0, "brief": 0.5}}))
    assert found.outcome == 0.5


def test_a_missing_dimension_is_missing_and_not_zero(run: Run) -> None:
    whole, part = EpisodeBuilder(rollout_id="whole"), EpisodeBuilder(rollout_id="part")
    whole.reward(1.0, dimension="correct")
    whole.reward(1.0, dimension="brief")
    part.reward(1.0, dimension="correct")
    done = run(whole, part)
    assert [each.rollout.id for each in done.trajectories] == ["whole"]
    assert dropped(done, "rewards") == {"no outcome in dimension 'brief'": 1}


def test_rewards_of_sources_that_are_not_trusted_do_not_count(run: Run) -> None:
    build = EpisodeBuilder()
    build.reward(1.0, source=RewardSource.AGENT)
    done = run(build, rewards={"trusted": ["grader"]})
    assert (done.trajectories, dropped(done, "rewards")) == ((), {"no reward from a trusted source": 1})


def test_a_trajectory_without_reward_is_left_out(run: Run) -> None:
    done = run(EpisodeBuilder())
    assert (done.trajectories, dropped(done, "rewards")) == ((), {"no reward": 1})


def test_a_failure_is_left_out_by_class_whatever_reward_it_had(run: Run) -> None:
    build = EpisodeBuilder(failure=FailureClass.INFRASTRUCTURE)
    build.reward(1.0)
    done = run(build)
    assert (done.trajectories, dropped(done, "rewards")) == ((), {"failed: infrastructure": 1})


def test_a_failure_is_worth_what_the_parameters_say(run: Run) -> None:
    build = EpisodeBuilder(failure=FailureClass.AGENT_ERROR)
    build.call([1], [2])
    found = trajectory(run(build, rewards={"failures": {"agent_error": -1.0}}))
    assert (found.outcome, found.transitions[0].credit) == (-1.0, -1.0)


def test_a_reward_that_is_no_number_leaves_the_trajectory_out(run: Run) -> None:
    build = EpisodeBuilder()
    build.span(semconv.OPERATION_REWARD, attributes={semconv.EVALUATION_SCORE: "high"})
    build.reward(1.0)
    done = run(build)
    assert done.trajectories == ()
    assert next(iter(dropped(done, "rewards"))).startswith("invalid reward: ")


def test_a_reward_aimed_at_a_call_is_that_call_s_and_no_outcome(run: Run) -> None:
    build = EpisodeBuilder()
    aimed = build.call([1], [2])
    build.call([1, 2], [3])
    build.reward(0.5, target=aimed)
    build.reward(1.0)
    found = trajectory(run(build))
    assert [each.reward for each in found.transitions] == [0.5, None]
    assert found.outcome == 1.0


def test_a_reward_aimed_at_an_operation_is_that_of_the_last_decision_in_it(run: Run) -> None:
    build = EpisodeBuilder()
    root = build.span(semconv.OPERATION_ROLLOUT)
    doors = [build.span(semconv.OPERATION_OTHER, parent=root) for _ in range(2)]
    for door in doors:
        build.call([1], [2], parent=door)
        build.call([1, 2], [3], parent=door)
    build.reward(0.25, target=doors[0])
    build.reward(0.75, target=doors[1])
    build.reward(1.0)
    done = run(build)
    assert [each.reward for each in trajectory(done).transitions] == [None, 0.25, None, 0.75]
    assert dropped(done, "rewards") == {}


def test_a_reward_aimed_at_a_tool_is_that_of_the_decision_before_it(run: Run) -> None:
    build = EpisodeBuilder()
    root = build.span(semconv.OPERATION_ROLLOUT)
    build.call([1], [2], parent=root)
    tool = build.span(semconv.OPERATION_TOOL, parent=root)
    build.call([1, 2], [3], parent=root)
    build.reward(0.5, target=tool)
    build.reward(1.0)
    assert [each.reward for each in trajectory(run(build)).transitions] == [0.5, None]


def test_a_reward_aimed_at_the_root_span_is_the_outcome(run: Run) -> None:
    build = EpisodeBuilder()
    root = build.span(semconv.OPERATION_ROLLOUT)
    build.call([1], [2], parent=build.span(semconv.OPERATION_AGENT, parent=root))
    build.reward(0.5, target=root)
    done = run(build)
    assert (trajectory(done).outcome, trajectory(done).transitions[0].reward) == (0.5, None)
    assert dropped(done, "rewards") == {}


def test_a_reward_aimed_at_the_root_of_a_foreign_trace_is_the_outcome(run: Run) -> None:
    build = EpisodeBuilder()
    root = build.span(semconv.OPERATION_OTHER)
    build.span(semconv.OPERATION_TOOL, parent=root)
    build.call([1], [2])  # whoever made it did not pass the trace on
    build.reward(0.5, target=root)
    assert trajectory(run(build)).outcome == 0.5


def test_a_reward_aimed_at_one_of_several_traces_is_no_outcome(run: Run) -> None:
    build = EpisodeBuilder()
    roots = [build.span(semconv.OPERATION_OTHER) for _ in range(2)]
    build.reward(0.5, target=roots[0])
    build.reward(1.0)
    done = run(build)
    assert trajectory(done).outcome == 1.0
    assert dropped(done, "rewards") == {"the reward's target belongs to no transition": 1}


def test_a_reward_aimed_at_nothing_is_counted(run: Run) -> None:
    build = EpisodeBuilder()
    build.reward(0.5, target="ffffffffffffffff")
    build.reward(1.0)
    assert dropped(run(build), "rewards") == {"the reward's target belongs to no transition": 1}
