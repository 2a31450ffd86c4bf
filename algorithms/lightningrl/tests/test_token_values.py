"""PPO with a critic: estimates over the tokens of an agent, what the critic is taught, and how it is logged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.engine import LossInput
from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.store import Store, open_store
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder, InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import Experience, Json, TokenForest
from lightning_algorithm_lightningrl import create
from lightning_algorithm_lightningrl._batch import Batch, make_batch
from lightning_algorithm_lightningrl._credit_rules import CreditRules
from lightning_algorithm_lightningrl._rollouts import Played, Sampled
from lightning_algorithm_lightningrl._token_values import explained_variance, token_estimates
from lightning_algorithm_lightningrl.advantages import Estimator, TokenGae

PIPELINE = Pipeline.from_specs(
    {spec.name: spec for spec in BUILTIN_STAGES}, load=lambda spec: load_target(spec.target)
)
NUMBER = st.floats(-3, 3, allow_nan=False)
CALLS = st.lists(
    st.tuples(st.sampled_from("ab"), NUMBER, st.lists(NUMBER, min_size=0, max_size=4)), min_size=1, max_size=6
)
Calls = Sequence[tuple[str, float, Sequence[float]]]


def rollout(*calls: tuple[str, float, Sequence[float]], **changes: object) -> Played:
    """Calls as agent, credit and the value before each token."""
    made = [
        Sampled(
            id=str(number),
            agent=agent,
            turn=number,
            credit=credit,
            value=None,
            tokens=len(values),
            staleness=0,
            values=tuple(values),
            **changes,  # type: ignore[arg-type]
        )
        for number, (agent, credit, values) in enumerate(calls)
    ]
    return Played(outcome=0.0, outcomes={}, calls=tuple(made))


def estimates(
    *calls: tuple[str, float, Sequence[float]], gamma: float = 1.0, lam: float = 1.0
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    return token_estimates([[rollout(*calls)]], options=TokenGae(gamma=gamma, lam=lam))


def test_estimates_go_on_over_what_stands_between_the_calls_of_an_agent() -> None:
    advantages, returns = estimates(("", 1.0, [0.2, 0.4]), ("", 1.0, [0.6]), gamma=0.5, lam=0.5)
    last = 1.0 - 0.6
    middle = 0.5 * 0.6 - 0.4 + 0.25 * last
    first = 0.5 * 0.4 - 0.2 + 0.25 * middle
    assert advantages == {"0": pytest.approx([first, middle]), "1": pytest.approx([last])}
    assert returns == {"0": pytest.approx([first + 0.2, middle + 0.4]), "1": pytest.approx([1.0])}


def test_each_agent_has_estimates_of_its_own_whoever_spoke_in_between() -> None:
    together, _ = estimates(("a", 1.0, [0.5]), ("b", 2.0, [0.1]), ("a", 1.0, [0.7]), lam=0.5)
    alone, _ = estimates(("a", 1.0, [0.5]), ("a", 1.0, [0.7]), lam=0.5)
    other, _ = estimates(("b", 2.0, [0.1]), lam=0.5)
    assert together == {"0": alone["0"], "1": other["0"], "2": alone["1"]}


@given(calls=CALLS)
@settings(max_examples=60, deadline=None)
def test_without_discount_the_returns_are_the_credits_whatever_the_critic_says(calls: Calls) -> None:
    _, returns = estimates(*calls)
    for number, (agent, credit, values) in enumerate(calls):
        later = [one for one in calls[number + 1 :] if one[0] == agent]
        if all(one[2] for one in later):
            assert returns[str(number)] == pytest.approx([credit] * len(values), abs=1e-9)


@given(calls=CALLS, gamma=st.floats(0, 1), lam=st.floats(0, 1), cut=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_a_call_in_two_halves_has_the_same_estimates(
    calls: Calls, gamma: float, lam: float, cut: int
) -> None:
    halves = [
        half
        for agent, credit, values in calls
        for half in ((agent, credit, values[:cut]), (agent, credit, values[cut:]))
    ]
    whole, _ = estimates(*calls, gamma=gamma, lam=lam)
    parts, _ = estimates(*halves, gamma=gamma, lam=lam)
    for number in range(len(calls)):
        assert parts[str(2 * number)] + parts[str(2 * number + 1)] == pytest.approx(
            whole[str(number)], abs=1e-9
        )


def test_a_critic_that_knows_the_credits_leaves_no_advantage() -> None:
    advantages, _ = estimates(("", 0.5, [0.5, 0.5]), ("", 0.5, [0.5]), lam=0.9)
    assert [value for values in advantages.values() for value in values] == pytest.approx([0.0] * 3)


def test_a_divergence_comes_out_of_the_reward_of_its_token() -> None:
    played = rollout(("", 1.0, [0.0, 0.0]), divergence=(0.5, 0.25))
    advantages, returns = token_estimates([[played]], options=TokenGae(lam=1.0), kl=2.0)
    assert advantages == returns == {"0": [1.0 - 0.5 - 1.0, 1.0 - 0.5]}


def test_the_variance_that_is_explained() -> None:
    assert explained_variance([0.0, 1.0, 2.0], returns=[0.0, 1.0, 2.0]) == 1.0
    assert explained_variance([5.0] * 3, returns=[0.0, 1.0, 2.0]) == pytest.approx(0.0, abs=1e-4)
    assert explained_variance([2.0, 1.0, 0.0], returns=[0.0, 1.0, 2.0]) == pytest.approx(-3.0, abs=1e-4)
    assert explained_variance([1.0], returns=[2.0]) == 0.0


def experience(*outcomes: float) -> Experience:
    """One group of rollouts, each of two calls of two tokens with a tool output between them."""
    episodes = []
    for number, outcome in enumerate(outcomes):
        builder = EpisodeBuilder(rollout_id=f"r{number}", group="g", sample=number)
        builder.call([1, 2], [3 + number, 9])
        builder.call([1, 2, 3 + number, 9, 50, 51], [7, 8])
        builder.reward(outcome)
        episodes.append(builder.build())
    return PIPELINE.run(Experience(episodes=tuple(episodes)))


def valued(found: Experience, value: float) -> Experience:
    """What a value head said of the sampled tokens; what it says of others is never read."""
    assert found.forest is not None
    columns = []
    for tree in found.forest.trees:
        column = [1e9] * len(tree)
        for call in tree.calls:
            column[call.start : call.stop] = [value] * (call.stop - call.start)
        columns.append(column)
    return replace(found, forest=found.forest.with_column("values", columns))


def batch(found: Experience, **options: object) -> Batch:
    return make_batch(found, version=0, estimator=TokenGae(**options), trains_flat=True)  # type: ignore[arg-type]


def test_the_learner_is_given_advantages_and_returns_of_every_sampled_token() -> None:
    made = batch(valued(experience(1.0, 0.0), 0.25), whiten=False, lam=1.0)
    (tree,) = made.forest.trees
    sampled = {node for call in tree.calls for node in range(call.start, call.stop)}
    outcomes = {"r0": 1.0, "r1": 0.0}
    for call in tree.calls:
        for node in range(call.start, call.stop):
            assert tree.returns[node] == pytest.approx(outcomes[call.rollout_id], abs=1e-6)
            assert tree.advantages[node] == pytest.approx(tree.returns[node] - 0.25, abs=1e-6)
    assert all(tree.returns[node] == 0.0 for node in range(len(tree)) if node not in sampled)
    assert made.metrics["critic/values/mean"] == made.metrics["critic/values/max"] == 0.25
    assert made.metrics["critic/returns/max"] == 1.0
    assert made.metrics["critic/vf_explained_var"] == pytest.approx(0.0, abs=1e-3)


def test_a_group_of_equal_credits_teaches_the_critic() -> None:
    made = batch(valued(experience(1.0, 1.0), 0.0), lam=1.0)
    assert made.trained == 4
    assert all(value == pytest.approx(1.0) for tree in made.forest.trees for value in tree.returns if value)


def test_advantages_are_whitened_over_the_batch_and_returns_are_not() -> None:
    found = valued(experience(3.0, 1.0, 1.0), 0.5)
    white, raw = batch(found), batch(found, whiten=False)
    assert [tree.returns for tree in white.forest.trees] == [tree.returns for tree in raw.forest.trees]
    values = [tree.advantages[n] for tree in white.forest.trees for n in range(len(tree)) if tree.weights[n]]
    assert sum(values) == pytest.approx(0.0, abs=1e-5)
    assert sum(value**2 for value in values) / (len(values) - 1) == pytest.approx(1.0, abs=1e-4)


def test_values_that_are_not_there_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="0 values for 2 tokens"):
        batch(experience(1.0, 0.0))


def test_numbers_of_a_critic_are_logged_only_where_there_is_one() -> None:
    made = make_batch(experience(1.0, 0.0), version=0, estimator=Estimator.GRPO)
    assert not [name for name in made.metrics if name.startswith("critic/")]
    assert not any(tree.returns for tree in made.forest.trees)


class Critical(InMemoryLearner):
    """A learner whose value head expects the same of everything."""

    async def values(self, forest: TokenForest) -> list[list[float]]:
        return [[0.5] * len(tree) for tree in forest.trees]


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
    episode.call([1, 2], [3, 4], version=version)
    episode.reward(1.0)


def context(store: Store, kind: type[InMemoryLearner]) -> InMemoryTrainingContext:
    engine = InMemoryEngine()
    return InMemoryTrainingContext(
        play=play, store=store, train=[1], engine=engine, learner=kind(engine=engine)
    )


PPO: dict[str, Json] = {"updates": 2, "tasks_per_update": 1, "group_size": 1, "advantage": "token_gae"}


async def test_values_and_targets_reach_the_loss(store: Store) -> None:
    made = context(store, Critical)
    options = {"name": "token_gae", "value_clip": 0.3, "value_coefficient": 0.2, "value_learning_rate": 1e-2}
    await create(PPO | {"advantage": options, "schedule": "linear", "learning_rate": 1e-3}).fit(made)
    assert isinstance(made.learner, Critical)
    (forest, spec), _ = made.learner.batches
    assert spec.name == "ppo_clip+value"
    assert spec.inputs == (LossInput.VALUES, LossInput.OLD_VALUES, LossInput.RETURNS)
    assert spec.params["value_clip"] == 0.3
    assert spec.params["value_coefficient"] == 0.2
    (tree,) = forest.trees
    assert list(tree.values) == [0.5] * 4
    assert list(tree.returns) == pytest.approx([0.0, 0.0, 0.975, 1.0])
    assert [step.value_learning_rate for step in made.learner.steps] == pytest.approx([1e-2, 5e-3])
    assert [step.learning_rate for step in made.learner.steps] == pytest.approx([1e-3, 5e-4])


def test_tokens_without_an_advantage_still_teach_the_critic() -> None:
    assert create(PPO).config.trains_flat
    assert not create(PPO | {"advantage": "reinforce"}).config.trains_flat


async def test_a_learner_without_a_value_head_is_refused_before_anything_is_played(store: Store) -> None:
    with pytest.raises(ConfigError, match="InMemoryLearner has none; set value_head"):
        await create(PPO).fit(context(store, InMemoryLearner))


async def test_other_advantages_ask_for_no_values(store: Store) -> None:
    made = context(store, Critical)
    await create(PPO | {"advantage": "reinforce"}).fit(made)
    assert isinstance(made.learner, Critical)
    assert not made.learner.batches[0][0].trees[0].values
    assert made.learner.steps[0].value_learning_rate is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"advantage": {"name": "token_gae", "clip": 0.1}}, "unknown field `clip`"),
        ({"advantage": {"name": "token_gae", "value_coefficient": 0}}, "value_coefficient"),
        ({"compare": "agent"}, "compares no decisions of a group"),
        ({"std_eps": 1e-4}, "divides by no deviation"),
        ({"selection": {"replace_flat": 2}}, "leave replace_flat out"),
    ],
)
def test_settings_that_a_critic_cannot_honour_are_refused(params: dict[str, Json], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(PPO | params)


@pytest.mark.parametrize("rule", [{"mode": "critic"}, {"agents": {"planner": {"mode": "critic"}}}])
def test_two_critics_are_refused(rule: dict[str, Json]) -> None:
    rules = CreditRules.of_run({"stage_params": {"credit": rule}})
    with pytest.raises(ConfigError, match="'token_gae' has a critic of tokens"):
        rules.check(Estimator.TOKEN_GAE, estimator=Estimator.TOKEN_GAE)
