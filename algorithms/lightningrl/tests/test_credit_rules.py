"""Advantages of what the pipeline's credits are: shares of returns, values of critics, comparisons of states."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import pytest

from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder, InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import Experience, Json
from lightning_algorithm_lightningrl import create
from lightning_algorithm_lightningrl._advantage import Rule, batch_advantages, is_flat_group
from lightning_algorithm_lightningrl._batch import Batch, make_batch
from lightning_algorithm_lightningrl._credit_rules import CreditRules
from lightning_algorithm_lightningrl._rollouts import Played, Sampled
from lightning_algorithm_lightningrl.advantages import Compare, Estimator
from lightning_algorithm_lightningrl.returns import anchored_advantages


def call(name: str, credit: float, *, value: float | None = None, agent: str = "", turn: int = 0) -> Sampled:
    return Sampled(id=name, agent=agent, turn=turn, credit=credit, value=value, tokens=1, staleness=0)


def rollout(outcome: float, *calls: Sampled) -> Played:
    return Played(outcome=outcome, outcomes={}, calls=calls)


def advantages(*rollouts: Played, **rule: object) -> dict[str, float]:
    found = batch_advantages([rollouts], rule=Rule(**rule), baselines={})  # type: ignore[arg-type]
    return {name: value for name, (value,) in found.advantages.items()}


def pipeline(params: Mapping[str, Json]) -> Pipeline:
    specs = {spec.name: spec for spec in BUILTIN_STAGES}
    names = [spec.name for spec in sorted(BUILTIN_STAGES, key=lambda spec: spec.order) if spec.default]
    return Pipeline.from_specs(
        specs,
        load=lambda spec: load_target(spec.target),
        chosen=[(name, params if name == "credit" else {}) for name in names],
    )


def test_groups_are_flat_by_their_credits_and_not_by_their_returns() -> None:
    same = [rollout(1.0, call("a", 0.2), call("b", 0.8)), rollout(1.0, call("c", 0.5))]
    assert not is_flat_group(same)
    assert any(advantages(*same, choice=Estimator.GRPO).values())
    assert is_flat_group([rollout(1.0, call("a", 0.5)), rollout(2.0, call("b", 0.5))])
    assert not is_flat_group(
        [rollout(1.0, call("a", 0.5, value=0.4)), rollout(1.0, call("b", 0.5, value=0.4))]
    )


@pytest.mark.parametrize(
    "estimator", [Estimator.GRPO, Estimator.DR_GRPO, Estimator.RLOO, Estimator.REINFORCE]
)
def test_what_a_critic_expected_is_the_baseline(estimator: Estimator) -> None:
    found = advantages(
        rollout(1.0, call("a", 1.0, value=0.25)), rollout(1.0, call("b", 1.0, value=1.5)), choice=estimator
    )
    assert found == {"a": 0.75, "b": -0.5}


def test_only_what_no_critic_judges_is_compared_with_the_group() -> None:
    found = advantages(
        rollout(1.0, call("a", 1.0, value=0.0), call("b", 1.0)),
        rollout(0.0, call("c", 0.0, value=0.0), call("d", 0.0)),
        rollout(9.0, call("e", 9.0, value=8.0)),
        choice=Estimator.DR_GRPO,
    )
    assert found == {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5, "e": 1.0}


def test_rules_of_single_agents_compare_each_agent_with_itself() -> None:
    group = [
        rollout(1.0, call("a", 10.0, agent="planner"), call("b", 1.0, agent="writer")),
        rollout(0.0, call("c", 20.0, agent="planner"), call("d", 0.0, agent="writer")),
    ]
    found = advantages(*group, choice=Estimator.DR_GRPO, compare=Compare.AGENT)
    assert found == {"a": -5.0, "b": 0.5, "c": 5.0, "d": -0.5}


def walked(number: int, rewards: list[float], states: list[str]) -> EpisodeBuilder:
    builder = EpisodeBuilder(rollout_id=f"r{number}", group="g", sample=number)
    for step, (reward, state) in enumerate(zip(rewards, states, strict=True)):
        builder.span("agl.state", attributes={"agl.state": {"at": state}})
        target = builder.call([7, step], [3 + number])
        builder.reward(reward, target=target)
    return builder


@pytest.mark.parametrize(("scale", "estimator"), [("none", Estimator.DR_GRPO), ("std", Estimator.GRPO)])
def test_comparisons_of_states_give_the_advantage_of_the_paper(scale: str, estimator: Estimator) -> None:
    rewards = [[0.0, 1.0, 0.5], [0.0, 0.0, 0.25], [1.0, 0.0, 0.0]]
    states = [["s", "t", "u"], ["s", "t", "t"], ["s", "u", "v"]]
    params: dict[str, Json] = {"mode": "group_by_state", "discount": 0.9, "scale": scale}
    builders = [walked(n, *pair) for n, pair in enumerate(zip(rewards, states, strict=True))]
    experience = pipeline(params).run(Experience(episodes=tuple(one.build() for one in builders)))
    assert [len(one.transitions) for one in experience.trajectories] == [3, 3, 3]
    made = make_batch(
        experience,
        version=0,
        estimator=estimator,
        credit=CreditRules(every=params),
    )
    found = by_call(made)
    expected = anchored_advantages(rewards, anchors=states, gamma=0.9, by_deviation=scale == "std")
    ids = [[one.id for one in trajectory.transitions] for trajectory in experience.trajectories]
    for names, values in zip(ids, expected, strict=True):
        for name, value in zip(names, values, strict=True):
            assert found[name] == pytest.approx(value, abs=1e-5)
    assert math.fsum(map(abs, found.values())) > 1


def by_call(made: Batch) -> dict[str, float]:
    return {one.transition_id: tree.advantages[one.start] for tree in made.forest.trees for one in tree.calls}


def test_the_mean_return_is_the_baseline_of_compared_states_whatever_the_steps_add() -> None:
    group = [rollout(1.0, call("a", 1.6), call("b", 1.2)), rollout(0.0, call("c", -0.1))]
    rules = CreditRules(every={"mode": "group_by_state"})
    found = advantages(*group, choice=Estimator.DR_GRPO, credit=rules)
    assert found == pytest.approx({"a": 1.1, "b": 0.7, "c": -0.6})
    divided = advantages(*group, choice=Estimator.GRPO, credit=rules)
    spread = statistics.stdev([1.0, 0.0]) + 1e-6
    assert divided == pytest.approx({name: value / spread for name, value in found.items()})


def test_what_steps_add_has_the_scale_of_the_group_although_those_compared_with_are_few_and_alike() -> None:
    # only two rollouts come to a second turn, both of return 0: their own deviation says nothing of the group's
    group = [
        rollout(1.0, call("a", 1.0)),
        rollout(1.0, call("b", 1.0)),
        rollout(0.0, call("c", 0.0), call("d", 0.5, turn=1)),
        rollout(0.0, call("e", 0.0), call("f", -0.5, turn=1)),
    ]
    rules = CreditRules(every={"mode": "group_by_state", "scale": "std"})
    found = advantages(*group, choice=Estimator.GRPO, compare=Compare.TURN, credit=rules)
    spread = statistics.stdev([1.0, 1.0, 0.0, 0.0])
    assert found["d"] == pytest.approx(0.5 / spread, rel=1e-5)
    assert found["f"] == pytest.approx(-0.5 / spread, rel=1e-5)


def test_what_steps_add_stays_finite_where_others_were_left_out_after_the_credits_were_made() -> None:
    group = [rollout(0.0, call("a", 0.5)), rollout(0.0, call("b", -0.5))]
    rules = CreditRules(every={"mode": "group_by_state", "scale": "std"})
    assert advantages(*group, choice=Estimator.GRPO, credit=rules) == {"a": 0.5, "b": -0.5}
    assert advantages(group[0], choice=Estimator.GRPO, credit=rules) == {"a": 0.5}
    rules = CreditRules(every={"mode": "leave_one_out"})
    assert advantages(*group, choice=Estimator.GRPO, credit=rules) == {"a": 0.5, "b": -0.5}


@pytest.mark.parametrize("std_eps", [1e-6, 1e-4])
@pytest.mark.parametrize("returns", [[1.0], [1.0, 1.0]])
def test_where_returns_are_alike_visits_to_a_state_are_compared_in_their_own_deviation(
    returns: list[float], std_eps: float
) -> None:
    params: dict[str, Json] = {"mode": "group_by_state", "scale": "std"}
    builders = [walked(n, [total, 0.0], ["s", "s"]) for n, total in enumerate(returns)]
    experience = pipeline(params).run(Experience(episodes=tuple(one.build() for one in builders)))
    made = make_batch(
        experience, version=0, estimator=Estimator.GRPO, std_eps=std_eps, credit=CreditRules(every=params)
    )
    spread = statistics.stdev([1.0, 0.0] * len(returns))
    assert max(by_call(made).values()) == pytest.approx(0.5 / spread, rel=1e-3)


@pytest.mark.parametrize("compare", list(Compare))
@pytest.mark.parametrize(("estimator", "unit"), [(Estimator.DR_GRPO, 1.0), (Estimator.GRPO, 0.5773502)])
def test_what_a_team_earns_without_an_agent_is_the_baseline_of_its_decisions(
    compare: Compare, estimator: Estimator, unit: float
) -> None:
    def team(number: int, reward: float, *agents: str) -> EpisodeBuilder:
        builder = EpisodeBuilder(rollout_id=f"r{number}", group="g", sample=number)
        for step, agent in enumerate(agents):
            builder.call([7, step], [3 + number], agent=agent)
        builder.reward(reward)
        return builder

    builders = [
        team(0, 1.0, "boss", "helper"),
        team(1, 1.0, "boss", "helper", "helper"),
        team(2, 0.0, "boss"),
        team(3, 0.0, "boss"),
    ]
    params: dict[str, Json] = {"mode": "leave_one_out"}
    experience = pipeline(params).run(Experience(episodes=tuple(one.build() for one in builders)))
    made = make_batch(
        experience,
        version=0,
        estimator=estimator,
        compare=compare,
        credit=CreditRules(every=params),
    )
    found = by_call(made)
    for trajectory in experience.trajectories:
        for one in trajectory.transitions:
            # the helper against those without it, who earned 0; the boss is always there, and against the mean
            expected = trajectory.outcome - (0.0 if one.agent == "helper" else 0.5)
            assert found[one.id] == pytest.approx(expected / unit, rel=1e-4), one.agent


@pytest.mark.parametrize("compare", list(Compare))
def test_an_agent_compared_with_its_absence_leaves_rewards_and_baselines_of_others_alone(
    compare: Compare,
) -> None:
    group = []
    for number, agents in enumerate((["writer", "helper"], ["writer"], ["writer"])):
        builder = EpisodeBuilder(rollout_id=f"r{number}", group="g", sample=number)
        for step, agent in enumerate(agents):
            builder.reward(3.0, target=builder.call([7, step], [3 + number], agent=agent))
        builder.reward(1.0 - number)
        group.append(builder)
    params: dict[str, Json] = {"mode": "per_step", "agents": {"helper": {"mode": "leave_one_out"}}}
    experience = pipeline(params).run(Experience(episodes=tuple(one.build() for one in group)))
    rules = CreditRules.of_run({"stage_params": {"credit": params}})
    made = make_batch(experience, version=0, estimator=Estimator.DR_GRPO, compare=compare, credit=rules)
    writer, helper = (by_call(made)[one.id] for one in experience.trajectories[0].transitions)
    assert helper == pytest.approx(1.0 - (0.0 - 1.0) / 2)
    if compare is not Compare.ROLLOUT:
        # the writer's returns to go are 7, 3 and 2
        assert writer == pytest.approx(7.0 - 4.0)


@pytest.mark.parametrize(
    ("params", "credit", "message"),
    [
        ({}, {"mode": "group_by_state"}, "take scale = 'std' with 'grpo'"),
        ({"advantage": "dr_grpo"}, {"mode": "group_by_state", "scale": "std"}, "leave scale out"),
        ({"advantage": "maxrl"}, {"mode": "group_by_state"}, "does not keep them"),
        (
            {"advantage": "dr_grpo"},
            {"agents": {"planner": {"mode": "group_by_state", "scale": "std"}}},
            "of agent 'planner' has scale 'std'",
        ),
        ({"advantage": "gae"}, {}, "credit mode 'outcome' has none"),
        ({"advantage": "gae"}, {"mode": "critic", "discount": 0.9}, "give both the same"),
    ],
)
async def test_credits_that_the_advantage_does_not_fit_are_refused_at_the_start(
    params: dict[str, Json], credit: dict[str, Json], message: str
) -> None:
    from msgspec.structs import replace

    from agentlightning.store import open_store

    def never(task: Json, episode: EpisodeBuilder, version: int) -> None:
        raise AssertionError("nothing is to be played")

    engine = InMemoryEngine()
    async with open_store("memory://") as store:
        made = InMemoryTrainingContext(
            play=never, store=store, train=[1], engine=engine, learner=InMemoryLearner(engine=engine)
        )
        made.run = replace(made.run, config={"stage_params": {"credit": credit}})
        with pytest.raises(ConfigError, match=message):
            await create(params).fit(made)


@pytest.mark.parametrize("estimator", [Estimator.REINFORCE_PP, Estimator.GAE])
def test_a_rollout_that_made_no_call_is_no_obstacle(estimator: Estimator) -> None:
    found = advantages(
        rollout(0.0),
        rollout(1.0, call("a", 1.0, value=0.5)),
        rollout(0.0, call("b", 0.0, value=0.5)),
        choice=estimator,
    )
    assert found == pytest.approx({"a": 0.5**0.5, "b": -(0.5**0.5)})


def test_the_only_rollout_of_an_update_has_no_critic_and_teaches_nothing() -> None:
    params: dict[str, Json] = {"mode": "critic"}
    experience = pipeline(params).run(Experience(episodes=(walked(0, [0.0, 1.0], ["s", "t"]).build(),)))
    made = make_batch(experience, version=0, estimator=Estimator.GAE, credit=CreditRules(every=params))
    assert set(by_call(made).values()) == {0.0}
    unjudged = [rollout(1.0, call("a", 1.0)), rollout(0.0, call("b", 0.0, value=0.5))]
    with pytest.raises(ConfigError, match="call a has no value"):
        advantages(*unjudged, choice=Estimator.GAE)


def test_rules_that_fit_are_taken() -> None:
    std = CreditRules.of_run({"stage_params": {"credit": {"mode": "group_by_state", "scale": "std"}}})
    std.check(Estimator.GRPO, estimator=Estimator.GRPO)
    assert std.is_anchored("anyone")
    critic = CreditRules.of_run({"stage_params": {"credit": {"mode": "critic"}}})
    critic.check(Estimator.GAE, estimator=Estimator.GAE)
    assert not critic.is_anchored("anyone")
    assert CreditRules.of_run({}) == CreditRules()
