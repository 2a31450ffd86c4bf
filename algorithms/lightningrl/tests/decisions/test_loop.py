"""The loop with agents that are played: what it learns, what it lets go live, what it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from agentlightning.algorithm import Algorithm
from agentlightning.compose import SequenceAlgorithm, TogetherAlgorithm
from agentlightning.decisions import draw, propensities
from agentlightning.errors import ConfigError, NumericalError
from agentlightning.store import Store, open_store
from agentlightning.testing import EpisodeBuilder, InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import (
    BUILTIN_KINDS,
    DecisionPolicy,
    Json,
    Mode,
    PromptTemplate,
    Resource,
    ResourceSet,
    ResourceState,
    Rollout,
)
from lightning_algorithm_lightningrl import create as create_lightningrl
from lightning_algorithm_lightningrl.decisions import create

ARMS = ["left", "middle", "right"]
SMALL: dict[str, Json] = {"updates": 30, "tasks_per_update": 8, "group_size": 4, "anneal": 15}


@dataclass(kw_only=True)
class PolicyContext(InMemoryTrainingContext):
    """A run whose store keeps resource sets, and whose rollouts are decided by the set that they are pinned to."""

    policy: DecisionPolicy | None = None
    modes: list[tuple[Mode, str | None]] = field(default_factory=list)

    async def publish(
        self, resources: Mapping[str, Resource], *, step: int = 0, live: bool = True
    ) -> ResourceSet:
        parent = await self.store.resources.live()
        return await self.store.resources.publish(
            resources,
            parent=parent.id if parent else None,
            state=ResourceState.LIVE if live else ResourceState.CANDIDATE,
            step=step,
        )

    async def rollouts(self, *args: object, **options: object) -> list[Rollout]:
        pinned = options.get("resources") or await self.store.resources.live()
        assert pinned is None or isinstance(pinned, ResourceSet)
        record = pinned.resources.get("decisions") if pinned else None
        found = record.load(BUILTIN_KINDS) if record else None
        assert found is None or isinstance(found, DecisionPolicy)
        self.policy = found
        self.modes.append((Mode(options.get("mode", Mode.TRAIN)), pinned.id if pinned else None))
        return await super().rollouts(*args, **options)  # type: ignore[arg-type]


Play = Callable[[PolicyContext, Json, EpisodeBuilder, int], float]


def decide(
    context: PolicyContext, episode: EpisodeBuilder, *, name: str, options: list[str], state: Json
) -> str:
    """A decision as `agl.decide` takes and records it."""
    shares, index = [1.0], 0
    if context.policy is not None:
        greedy = episode.rollout_id.startswith("val")
        shares = propensities(context.policy, name, options=options, context=state, greedy=greedy)
        index = draw(shares, seed=f"{episode.rollout_id}/{name}")
    attributes: dict[str, Json] = {
        "agl.decision.name": name,
        "agl.decision.options": list(options),
        "agl.decision.choice": options[index],
        "agl.decision.index": index,
        "agl.decision.propensity": shares[index],
        "agl.state": state,
    }
    episode.span("agl.decision", attributes=attributes)
    return options[index]


def bandit(context: PolicyContext, task: Json, episode: EpisodeBuilder, version: int) -> float:
    """Even tasks are best served on the right, odd ones in the middle."""
    arm = decide(context, episode, name="arm", options=ARMS, state={"odd": int(str(task)) % 2})
    chance = 0.9 if arm == ("middle" if int(str(task)) % 2 else "right") else 0.2
    return float(random.Random(episode.rollout_id).random() < chance)


async def train(
    play: Play,
    *,
    store: Store | None = None,
    then: dict[str, Json] | None = None,
    tokens: dict[str, Json] | None = None,
    **params: Json,
) -> PolicyContext:
    async with open_store("memory://") as own:

        def played(task: Json, episode: EpisodeBuilder, version: int) -> None:
            episode.reward(play(context, task, episode, version))

        context = PolicyContext(play=played, store=store or own, train=list(range(16)), val=list(range(40)))
        context.engine = InMemoryEngine()
        context.learner = InMemoryLearner(engine=context.engine)
        algorithm: Algorithm = create({**SMALL, **params})
        if then is not None:
            algorithm = SequenceAlgorithm([algorithm, create_lightningrl(then)])
        if tokens is not None:
            algorithm = TogetherAlgorithm([create_lightningrl(tokens), algorithm])
        await algorithm.fit(context)
        return context


def logged(context: PolicyContext, name: str) -> list[float]:
    return [metrics[name] for _, metrics in context.logged if name in metrics]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"baseline": "learned"},
        {"baseline": "none", "updates": 40},
        {"passes": 3, "learning_rate": 0.1, "entropy": 0.01},
        {"temperature": 2.0, "temperature_end": 0.5, "epsilon": 0.0, "epsilon_end": 0.0},
    ],
    ids=str,
)
async def test_a_policy_learns_what_pays_in_which_context(params: dict[str, Json]) -> None:
    context = await train(bandit, **params)
    before, after = context.reports["before"], context.reports["after"]
    assert before.mean < 0.4
    assert after.mean > 0.75
    assert before.high < after.low
    assert logged(context, "decisions/entropy")[-1] < logged(context, "decisions/entropy")[0]


async def test_training_is_pinned_to_candidates_and_evaluation_sees_what_is_live() -> None:
    async with open_store("memory://") as store:
        context = await train(bandit, store=store, updates=2, promote_every=5, promote="always")
        live = await store.resources.live()
        assert live is not None
        assert [mode for mode, _ in context.modes] == [Mode.VAL, Mode.TRAIN, Mode.TRAIN, Mode.VAL]
        assert context.modes[0][1] is None
        assert context.modes[-1][1] == live.id
        assert len({pinned for _, pinned in context.modes}) == 4


async def test_nothing_goes_live_without_a_gain_beyond_the_interval() -> None:
    def luck(context: PolicyContext, task: Json, episode: EpisodeBuilder, version: int) -> float:
        decide(context, episode, name="arm", options=ARMS, state=None)
        return float(random.Random(episode.rollout_id).random() < 0.5)

    async with open_store("memory://") as store:
        context = await train(luck, store=store, updates=10, promote_every=10)
        assert await store.resources.live() is None
        refused = [message for kind, message in context.events if kind == "candidate_refused"]
        assert logged(context, "decisions/ope/promoted") == [0.0] * len(refused) == [0.0]
        assert "gain" in refused[0] or "effective" in refused[0]
    async with open_store("memory://") as store:
        await train(luck, store=store, updates=10, promote="always")
        assert await store.resources.live() is not None


async def test_too_few_rollouts_are_not_believed() -> None:
    context = await train(bandit, updates=3, promote_every=3)
    (message,) = [message for kind, message in context.events if kind == "candidate_refused"]
    assert "effective sample size" in message


async def test_an_interval_over_few_groups_is_not_believed_however_many_rollouts_they_have() -> None:
    def easy(context: PolicyContext, task: Json, episode: EpisodeBuilder, version: int) -> float:
        return float(decide(context, episode, name="arm", options=ARMS, state=None) == "right")

    wide: dict[str, Json] = {"tasks_per_update": 1, "group_size": 48, "window": 1_000, "holdout": 0.5}
    context = await train(easy, updates=8, promote_every=8, min_effective=1.0, **wide)
    assert logged(context, "decisions/ope/gain_low")[0] > 0
    assert logged(context, "decisions/ope/promoted") == [0.0]
    (message,) = [message for kind, message in context.events if kind == "candidate_refused"]
    assert "192 rollouts to judge it on are of 4 groups only, and intervals over fewer than 8" in message


async def test_the_estimates_that_decide_are_logged_and_close_to_what_comes_true() -> None:
    context = await train(bandit, promote_every=15)
    assert logged(context, "decisions/ope/promoted")[0] == 1.0
    low, high = (logged(context, f"decisions/ope/dr_{end}")[-1] for end in ("low", "high"))
    assert low - 0.1 <= context.reports["after"].mean <= high + 0.1
    assert logged(context, "decisions/ope/effective")[-1] > 30
    assert logged(context, "decisions/ope/gain_low")[0] > 0
    first, second = logged(context, "decisions/ope/incumbent_dr")
    assert second > first + 0.2  # by then the incumbent is the one that was promoted


async def test_other_resources_stay_live() -> None:
    async with open_store("memory://") as store:
        await store.resources.publish({"system": PromptTemplate(template="be brief")})
        await train(bandit, store=store, updates=1, promote="always")
        live = await store.resources.live()
        assert live is not None
        assert live.resources["system"].load(BUILTIN_KINDS) == PromptTemplate(template="be brief")
        assert live.resources["decisions"].kind == "decision_policy"


async def test_a_run_begins_where_the_live_policy_is() -> None:
    async with open_store("memory://") as store:
        first = await train(bandit, store=store)
        second = await train(bandit, store=store, updates=2)
        assert second.reports["before"].mean > 0.75
        assert logged(second, "decisions/reward")[0] > logged(first, "decisions/reward")[0] + 0.2


async def test_a_resource_of_another_kind_is_not_replaced() -> None:
    async with open_store("memory://") as store:
        await store.resources.publish({"decisions": PromptTemplate(template="x")})
        with pytest.raises(ConfigError, match="of kind 'prompt'"):
            await train(bandit, store=store)


async def test_an_agent_that_decides_nothing_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match=r"took a decision that can be learned .* call agl\.decide"):
        await train(lambda *_: 1.0)
    with pytest.raises(ConfigError, match=r"among \['tool'\] .*; it takes 'arm'"):
        await train(bandit, points=["tool"])


async def test_updates_without_a_rollout_that_was_scored_have_no_reward() -> None:
    async with open_store("memory://") as store:
        context = PolicyContext(play=lambda *_: None, store=store, train=[1, 2])
        await create({**SMALL, "updates": 1}).fit(context)
    assert not {"reward", "reward_std", "decisions/reward"} & context.logged[0][1].keys()


async def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    def huge(context: PolicyContext, task: Json, episode: EpisodeBuilder, version: int) -> float:
        return 1e200 if bandit(context, task, episode, version) else -1e200

    with pytest.raises(NumericalError, match="gradient of norm"):
        await train(huge, baseline="none")


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"holdout": 0.0}, "holdout is 0"),
        ({"holdout": 1.0}, "leaves nothing to learn from"),
        ({"epsilon": 1.5}, "epsilon"),
        ({"update": 3}, "did you mean 'updates'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(params: dict[str, Json], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        create(params)


async def test_decisions_above_and_tokens_below_learn_from_the_same_rollouts() -> None:
    """Which branch pays is for the policy to learn; what is sampled in it, for the weights."""

    def agent(context: PolicyContext, task: Json, episode: EpisodeBuilder, version: int) -> float:
        branch = decide(context, episode, name="branch", options=["short", "long"], state=None)
        generator = random.Random(episode.rollout_id)
        tokens = [generator.randrange(4) for _ in range(3)]
        episode.call([1, 2, int(branch == "long")], tokens, version=version)
        return (branch == "long") * 0.7 + (sum(tokens) % 2) * 0.3

    tokens: dict[str, Json] = {"updates": 24, "tasks_per_update": 4, "group_size": 4, "checkpoint_every": 8}
    context = await train(
        agent, tokens=tokens, updates=24, checkpoint_every=8, promote_every=12, min_effective=10.0
    )
    assert isinstance(context.learner, InMemoryLearner)
    learner = context.learner
    assert len(learner.batches) == len(learner.steps) == 24
    for forest, _ in learner.batches:
        assert any(advantage for tree in forest.trees for advantage in tree.advantages)
    assert [step for step, _ in context.logged] == list(range(24))
    assert {"decisions/entropy", "masked_share", "reward"} <= context.logged[0][1].keys()
    rewards = logged(context, "decisions/reward")
    assert rewards == pytest.approx(logged(context, "reward"))
    assert rewards[0] < 0.65
    assert rewards[-1] > 0.75
    assert context.reports["before"].mean < 0.4
    assert context.reports["after"].mean > 0.7
    step, state = context.checkpoints[0]
    assert step == 8
    lightningrl, decisions = state["parts"]
    assert lightningrl["state"]["step"] == decisions["state"]["update"] == 8
    assert decisions["resources"] == ["decisions"]


async def test_decisions_are_learned_beside_asynchronous_token_learning() -> None:
    """Groups begin under older policies; each update learns once, from what it is made of."""

    def agent(context: PolicyContext, task: Json, episode: EpisodeBuilder, version: int) -> float:
        branch = decide(context, episode, name="branch", options=["short", "long"], state=None)
        episode.call([1, 2], [random.Random(episode.rollout_id).randrange(4)], version=version)
        return float(branch == "long")

    tokens: dict[str, Json] = {"updates": 20, "tasks_per_update": 4, "group_size": 4, "max_staleness": 1}
    context = await train(agent, tokens=tokens, updates=20, promote_every=10, min_effective=10.0)
    assert [step for step, _ in context.logged] == list(range(20))
    assert logged(context, "decisions/version") == list(range(20))
    assert max(logged(context, "decisions/importance_weight_max")) > 1.0
    assert context.reports["after"].mean == 1.0


async def test_tokens_can_be_learned_after_decisions_under_the_policy_that_went_live() -> None:
    def agent(context: PolicyContext, task: Json, episode: EpisodeBuilder, version: int) -> float:
        branch = decide(context, episode, name="branch", options=["short", "long"], state=None)
        generator = random.Random(episode.rollout_id)
        token = generator.randrange(2)
        episode.call([1, 2], [token], version=version)
        return 0.5 * (branch == "long") + 0.5 * token

    then: dict[str, Json] = {"updates": 2, "tasks_per_update": 4, "group_size": 4}
    context = await train(agent, then=then, updates=20, promote_every=10, min_effective=10.0)
    decided = [metrics for _, metrics in context.logged if "decisions/entropy" in metrics]
    learned = [metrics for _, metrics in context.logged if "masked_share" in metrics]
    assert (len(decided), len(learned)) == (20, 2)
    assert learned[0]["reward"] > 0.6
