from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.errors import ConfigError, StageError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, Json, TokenRecord, Trajectory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.tests.pipeline.conftest import Run

Rewards = list[float | None]


def played(
    rewards: Rewards,
    outcome: float | None = None,
    *,
    sample: int = 0,
    group: str = "g",
    states: list[str] | None = None,
    agents: list[str] | None = None,
) -> EpisodeBuilder:
    """A rollout with a call for each reward, in the state and by the agent that are given."""
    build = EpisodeBuilder(rollout_id=f"{group}{sample}", group=group, sample=sample)
    for number, reward in enumerate(rewards):
        if states:
            build.span(semconv.OPERATION_STATE, attributes={semconv.STATE: {"at": states[number]}})
        call = build.call([sample, number], [1], agent=agents[number] if agents else None)
        if reward is not None:
            build.reward(reward, target=call)
    if outcome is not None:
        build.reward(outcome)
    return build


def credits_of(experience: Experience) -> list[list[float]]:
    return [_credits(trajectory) for trajectory in experience.trajectories]


def _credits(trajectory: Trajectory) -> list[float]:
    return [one.credit for one in trajectory.transitions if one.credit is not None]


def dropped(experience: Experience) -> dict[str, int]:
    return next(report.dropped for report in experience.reports if report.stage == "credit")


def remarks(experience: Experience) -> dict[str, int]:
    return next(report.remarks for report in experience.reports if report.stage == "credit")


def test_the_last_decision_is_given_all_of_a_discounted_outcome(run: Run) -> None:
    done = run(played([None] * 3, 8.0), credit={"mode": "discounted", "discount": 0.5})
    assert credits_of(done) == [[2.0, 4.0, 8.0]]
    assert done.trajectories[0].episode_return == 8.0


def test_several_answers_to_one_call_are_one_step(run: Run) -> None:
    build = played([None], 8.0)
    records = tuple(TokenRecord.pack([1], [token], [-0.5], version=0) for token in (2, 3))
    build.span(semconv.OPERATION_CHAT, tokens=records)
    done = run(build, credit={"mode": "discounted", "discount": 0.5})
    assert credits_of(done) == [[4.0, 8.0, 8.0]]
    done = run(build, credit={"mode": "per_step", "discount": 0.5})
    assert credits_of(done) == [[4.0, 8.0, 8.0]]


def test_per_step_is_the_discounted_return_to_go_with_the_outcome_at_the_end(run: Run) -> None:
    done = run(played([1.0, None, -2.0], 8.0), credit={"mode": "per_step", "discount": 0.5})
    assert credits_of(done) == [[1.0 + 0.5 * 3.0, 0.5 * 6.0, -2.0 + 8.0]]
    assert done.trajectories[0].episode_return == 2.5


def test_rewards_of_single_decisions_are_enough_for_per_step(run: Run) -> None:
    done = run(played([1.0, 2.0]), credit={"mode": "per_step"})
    assert credits_of(done) == [[3.0, 2.0]]
    assert done.trajectories[0].outcome is None


def test_without_any_reward_there_is_nothing_to_spread(run: Run) -> None:
    done = run(played([None]), rewards={}, validate={"missing": "keep"}, credit={"mode": "per_step"})
    assert done.trajectories == ()


def test_an_outcome_without_decisions_still_counts_for_its_group(run: Run) -> None:
    for mode in ("per_step", "group_by_state", "critic", "signals", "leave_one_out", "discounted"):
        done = run(played([], 1.0), played([None], 0.0, sample=1), credit={"mode": mode})
        assert [one.episode_return for one in done.groups[0].trajectories] == [1.0, 0.0]


def test_a_reward_that_came_late_belongs_to_the_decision_that_it_is_aimed_at(run: Run) -> None:
    build = EpisodeBuilder()
    first = build.call([1], [2])
    build.call([1, 2], [3])
    build.reward(1.0)
    build.reward(5.0, target=first)
    assert credits_of(run(build, credit={"mode": "per_step"})) == [[6.0, 1.0]]


def test_several_dimensions_of_a_decision_become_one_number_by_the_rule(run: Run) -> None:
    build = EpisodeBuilder()
    call = build.call([1], [2])
    for name, value in {"correct": 1.0, "brief": 0.5}.items():
        build.reward(value, target=call, dimension=name)
        build.reward(0.0, dimension=name)
    weights: dict[str, Json] = {"weights": {"correct": 1.0, "brief": 2.0}}
    assert credits_of(run(build, rewards=weights, credit={"mode": "per_step"})) == [[2.0]]


def test_signals_are_added_to_the_outcome_from_where_they_are_still_ahead(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2])
    build.call([1, 2], [3])
    build.span(semconv.OPERATION_TOOL, name="search")
    build.call([1, 2, 3], [4])
    build.reward(1.0)
    done = run(build, signals={"tool_ok": 0.25}, credit={"mode": "signals", "discount": 0.5})
    assert credits_of(done) == [[1.125, 1.25, 1.0]]
    assert credits_of(run(build, signals={"tool_ok": 0.25})) == [[1.0, 1.0, 1.0]]
    per_step = run(build, signals={"tool_ok": 0.25}, credit={"mode": "per_step"})
    assert credits_of(per_step) == [[1.25, 1.25, 1.0]]


# states in common


def test_visits_to_one_state_are_compared_over_the_rollouts_of_a_task(run: Run) -> None:
    done = run(
        played([None, None], 1.0, states=["a", "b"]),
        played([None, None], 0.0, sample=1, states=["a", "c"]),
        credit={"mode": "group_by_state", "discount": 0.5, "step_weight": 2.0},
    )
    # returns to go 0.5 and 0.0 in a, of mean 0.25; b and c were visited once
    assert credits_of(done) == [[1.0 + 2.0 * 0.25, 1.0], [0.0 - 2.0 * 0.25, 0.0]]


def test_states_of_other_tasks_are_not_compared(run: Run) -> None:
    done = run(
        played([None], 1.0, states=["a"]),
        played([None], 0.0, group="h", states=["a"]),
        credit={"mode": "group_by_state"},
    )
    assert credits_of(done) == [[1.0], [0.0]]


def test_a_state_is_the_same_only_for_one_agent_at_one_place(run: Run) -> None:
    done = run(
        played([None], 1.0, states=["a"], agents=["x"]),
        played([None], 0.0, sample=1, states=["a"], agents=["y"]),
        credit={"mode": "group_by_state"},
    )
    assert credits_of(done) == [[1.0], [0.0]]
    alike = [played([None], float(n), sample=n, states=[str(n)]) for n in range(2)]
    assert credits_of(run(*alike, credit={"mode": "group_by_state"})) == [[0.0], [1.0]]
    assert credits_of(run(*alike, credit={"mode": "group_by_state", "anchor": "location"})) == [[-0.5], [1.5]]


def test_without_an_emitted_state_messages_are_the_state(run: Run) -> None:
    first, second = EpisodeBuilder(group="g"), EpisodeBuilder(rollout_id="s", group="g", sample=1)
    for build, outcome in ((first, 1.0), (second, 0.0)):
        build.call([7], [1])
        build.reward(outcome)
    assert credits_of(run(first, second, credit={"mode": "group_by_state"})) == [[1.5], [-0.5]]


EPS = 1e-6


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), scale=st.sampled_from(["none", "std"]))
def test_credit_less_the_group_s_mean_is_the_advantage_of_gigpo(
    data: st.DataObject, scale: str, run: Run
) -> None:
    values = st.integers(-3, 3).map(float)
    shapes = []
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(1, 4))
        states = data.draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
        rewards = data.draw(st.lists(st.none() | values, min_size=count, max_size=count))
        shapes.append((rewards, data.draw(values), states))
    done = run(
        *(
            played(rewards, outcome, sample=n, states=states)
            for n, (rewards, outcome, states) in enumerate(shapes)
        ),
        credit={"mode": "group_by_state", "discount": 0.5, "scale": scale},
    )
    expected = gigpo(shapes, gamma=0.5, scale=scale)
    totals = [one.episode_return or 0.0 for one in done.trajectories]
    mean = statistics.fmean(totals)
    spread = statistics.stdev(totals) + EPS if scale == "std" and len(totals) > 1 else 1.0
    found = [[(credit - mean) / spread for credit in each] for each in credits_of(done)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def gigpo(shapes: list[tuple[Rewards, float, list[str]]], *, gamma: float, scale: str) -> list[list[float]]:
    """Equations 3 to 9 of arXiv 2505.10978 word by word, the baseline of a lone episode being its own return."""
    earned = [[reward or 0.0 for reward in rewards] for rewards, _, _ in shapes]
    for rewards, (_, outcome, _) in zip(earned, shapes, strict=True):
        rewards[-1] += outcome
    totals = [sum(rewards) for rewards in earned]
    lone = len(totals) == 1
    episode = [
        (total - statistics.fmean(totals))
        / (1.0 if scale == "none" or lone else statistics.stdev(totals) + EPS)
        for total in totals
    ]
    visits: dict[str, list[float]] = {}
    for rewards, (_, _, states) in zip(earned, shapes, strict=True):
        for t, state in enumerate(states):
            ahead = sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards)))
            visits.setdefault(state, []).append(ahead)
    result = []
    for number, (rewards, (_, _, states)) in enumerate(zip(earned, shapes, strict=True)):
        own = []
        for t, state in enumerate(states):
            ahead = sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards)))
            others = visits[state]
            step = 0.0
            if len(others) > 1:
                step = ahead - statistics.fmean(others)
                # a lone episode has no spread of its own to bring the step to
                step /= 1.0 if scale == "none" else statistics.stdev(others) + EPS
            own.append(episode[number] + step)
        result.append(own)
    return result


# agents


def test_an_agent_is_given_what_the_team_earns_more_than_without_it(run: Run) -> None:
    done = run(
        played([None, None], 1.0, agents=["writer", "critic"]),
        played([None, None], 0.75, sample=1, agents=["writer", "critic"]),
        played([None], 0.25, sample=2, agents=["writer"]),
        credit={"mode": "leave_one_out"},
    )
    mean = 2.0 / 3
    assert credits_of(done) == [
        pytest.approx([1.0, mean + 0.75]),
        pytest.approx([0.75, mean + 0.5]),
        pytest.approx([0.25]),
    ]
    assert remarks(done) == {"no rollout of the group went without agent 'writer'": 3}


def test_an_agent_whose_call_is_incomplete_took_part(run: Run) -> None:
    absent = played([None], 0.0, sample=1, agents=["writer"])
    absent.call([1], [2], agent="critic", incomplete="the client left")
    done = run(
        played([None, None], 1.0, agents=["writer", "critic"]), absent, credit={"mode": "leave_one_out"}
    )
    assert credits_of(done) == [[1.0, 1.0], [0.0]]


def test_agents_have_rules_of_their_own(run: Run) -> None:
    done = run(
        played([1.0, None, None], 8.0, agents=["plan", "write", "plan"]),
        credit={"discount": 0.5, "mode": "discounted", "agents": {"plan": {"mode": "per_step"}}},
    )
    assert credits_of(done) == [[1.0 + 2.0, 4.0, 8.0]]
    assert done.trajectories[0].episode_return == 8.0


def test_what_is_said_of_an_agent_goes_before_what_is_said_of_all(run: Run) -> None:
    params: dict[str, Json] = {"mode": "discounted", "discount": 0.5, "agents": {"a": {"discount": 0.25}}}
    done = run(played([None, None], 4.0, agents=["a", "b"]), credit=params)
    assert credits_of(done) == [[1.0, 4.0]]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"mode": "outcome", "discount": 0.5},
            r"mode 'outcome' does not use 'discount'; used by discounted, per",
        ),
        (
            {"agents": {"a": {"mode": "dicounted"}}},
            "agent 'a' has no mode 'dicounted'; did you mean 'discounted'",
        ),
        (
            {"agents": {"a": {"discuont": 0.5}}},
            "agent 'a' has no setting 'discuont'; did you mean 'discount'",
        ),
        ({"mode": "nonsense"}, "there are outcome, discounted, .*module:function"),
        ({"mode": "discounted", "discount": 1.5}, "discount"),
        ({"mode": "critic", "params": {}}, "does not use 'params'; used by module:function"),
    ],
)
def test_what_cannot_be_meant_is_refused(params: dict[str, Json], message: str, run: Run) -> None:
    with pytest.raises(ConfigError, match=message):
        run(upto="credit", credit=params)


def by_length(experience: Experience, params: Mapping[str, Json]) -> list[list[float]]:
    """A credit mode of somebody else's: later decisions are given more."""
    unit = float(str(params["unit"]))
    return [[unit * one.index for one in trajectory.transitions] for trajectory in experience.trajectories]


def too_few(experience: Experience, _: Mapping[str, Json]) -> list[list[float]]:
    return [[] for _ in experience.trajectories]


def test_a_mode_of_one_s_own_is_named_by_its_import_string(run: Run) -> None:
    params: dict[str, Json] = {"mode": f"{__name__}:by_length", "params": {"unit": 2}}
    done = run(played([None] * 3, 1.0), credit=params)
    assert credits_of(done) == [[0.0, 2.0, 4.0]]


def test_a_mode_of_one_s_own_gives_each_transition_a_credit(run: Run) -> None:
    with pytest.raises(StageError, match="one credit per transition"):
        run(played([None], 1.0), credit={"mode": f"{__name__}:too_few"})


# critic


def maze(sample: int, *, good: bool, group: str = "g") -> EpisodeBuilder:
    """Two decisions: the second state tells how it will end, the first one does not."""
    build = EpisodeBuilder(rollout_id=f"{group}{sample}", group=group, sample=sample)
    for at in ("start", "won" if good else "lost"):
        build.span(semconv.OPERATION_STATE, attributes={semconv.STATE: {"at": at}})
        build.call([1], [2])
    build.reward(float(good))
    return build


def test_a_critic_learns_what_a_state_is_worth(run: Run) -> None:
    # the pattern of good ones is not that of the folds, or a fold would be judged by the others' wrong mean
    goods = [bool(sample // 4 % 2) for sample in range(16)]
    builders = [maze(sample, good=good) for sample, good in enumerate(goods)]
    done = run(*builders, credit={"mode": "critic", "ridge": 0.01})
    start = [one.transitions[0].value or 0.0 for one in done.trajectories]
    last = [one.transitions[1].value or 0.0 for one in done.trajectories]
    assert statistics.fmean(start) == pytest.approx(0.5, abs=0.1)
    assert all(value > 0.9 if good else value < 0.1 for value, good in zip(last, goods, strict=True))
    # with a trace of 1 credit is what was earned
    assert credits_of(done) == [pytest.approx([float(good)] * 2) for good in goods]


def test_without_a_trace_credit_is_what_the_critic_expects_next(run: Run) -> None:
    builders = [maze(sample, good=sample % 2 == 0) for sample in range(8)]
    done = run(*builders, credit={"mode": "critic", "trace": 0.0, "discount": 0.5})
    for trajectory in done.trajectories:
        first, last = trajectory.transitions
        assert first.credit == pytest.approx(0.5 * (last.value or 0.0))
        assert last.credit == pytest.approx(trajectory.outcome)


def test_no_value_knows_the_return_that_it_is_compared_with(run: Run) -> None:
    others = [maze(sample, good=sample % 2 == 0) for sample in range(1, 8)]

    def first_value(outcome: float) -> float | None:
        mine = played([None, None], outcome)
        done = run(mine, *others, credit={"mode": "critic"})
        return done.trajectories[0].transitions[0].value

    assert first_value(0.0) == first_value(1.0) == first_value(100.0)


def test_a_lone_trajectory_has_no_critic(run: Run) -> None:
    done = run(maze(0, good=True), credit={"mode": "critic"})
    assert [one.value for one in done.trajectories[0].transitions] == [None, None]
    assert credits_of(done) == [[1.0, 1.0]]
    assert remarks(done) == {"no other trajectory that a critic could learn from": 1}


def test_a_critic_does_not_depend_on_the_order_of_trajectories(run: Run) -> None:
    builders = [maze(n, good=n % 3 == 0, group=group) for n in range(5) for group in "gh"]
    one = run(*builders, upto="credit", credit={"mode": "critic"})
    other = run(*reversed(builders), upto="credit", credit={"mode": "critic"})
    assert one.trajectories == tuple(reversed(other.trajectories))


# of every mode

MODES = ["outcome", "discounted", "per_step", "signals", "group_by_state", "leave_one_out", "critic"]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_decision_of_what_is_kept_has_a_credit_and_the_rest_is_unchanged(
    mode: str, data: st.DataObject, run: Run
) -> None:
    values = st.none() | st.floats(-2, 2)
    builders = []
    for number in range(data.draw(st.integers(0, 4))):
        agents = data.draw(st.lists(st.sampled_from("ab"), max_size=3))
        rewards = data.draw(st.lists(values, min_size=len(agents), max_size=len(agents)))
        builders.append(
            played(
                rewards,
                data.draw(values),
                sample=number,
                group=data.draw(st.sampled_from("gh")),
                agents=agents,
            )
        )
    before = run(*builders, upto="validate", validate={"missing": "keep"})
    after = run(*builders, upto="credit", validate={"missing": "keep"}, credit={"mode": mode})
    assert len(after.trajectories) + sum(dropped(after).values()) == len(before.trajectories)
    for trajectory in after.trajectories:
        assert trajectory.episode_return is not None
        assert len(_credits(trajectory)) == len(trajectory.transitions)
    kept = {one.attempt.id: one for one in before.trajectories}
    for trajectory in after.trajectories:
        same = kept[trajectory.attempt.id]
        assert (trajectory.outcome, trajectory.rewards) == (same.outcome, same.rewards)


def test_stages_can_be_replaced_with_a_credit_of_one_s_own() -> None:
    specs = {spec.name: spec for spec in BUILTIN_STAGES}
    pipeline = Pipeline.from_specs(specs, load=lambda spec: load_target(spec.target))
    credit = load_target(specs["credit"].target)({"mode": "per_step"})  # type: ignore[operator]
    assert pipeline.replaced("credit", credit).names == pipeline.names
