from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentlightning import semconv
from agentlightning.engine import LossInput, OptimizerConfig
from agentlightning.errors import ConfigError, EngineError, NumericalError
from agentlightning.store import Store, open_store
from agentlightning.testing import EpisodeBuilder, InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import Json, TokenForest, TokenRecord
from lightning_algorithm_lightningrl import create
from lightning_algorithm_lightningrl._tasks import choose_tasks

SMALL: dict[str, Json] = {"updates": 4, "tasks_per_update": 2, "group_size": 4, "checkpoint_every": 2}


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


def play(task: Json, episode: EpisodeBuilder, version: int) -> None:
    """One call, and success by chance that depends on nothing but the rollout."""
    rng = random.Random(episode.rollout_id)
    episode.call([1, 2, 3], [rng.randrange(9) for _ in range(3)], version=version)
    episode.reward(float(rng.random() < 0.5))


def context(store: Store, **changes: object) -> InMemoryTrainingContext:
    engine = InMemoryEngine()
    learner = InMemoryLearner(engine=engine)
    settings = {"play": play, "store": store, "train": list(range(5)), "engine": engine, "learner": learner}
    return InMemoryTrainingContext(**(settings | changes))


def learner_of(made: InMemoryTrainingContext) -> InMemoryLearner:
    assert isinstance(made.learner, InMemoryLearner)
    return made.learner


async def test_it_trains_for_as_many_updates_as_it_was_told(store: Store) -> None:
    made = context(store, val=["x", "y"])
    await create(SMALL).fit(made)
    assert [step for step, _ in made.logged] == [0, 1, 2, 3]
    assert learner_of(made).weight == made.updates == 4
    assert sorted(made.reports) == ["after", "before"]
    assert [step for step, _ in made.checkpoints] == [2, 4]


async def test_weights_change_only_while_no_call_is_in_flight(store: Store) -> None:
    made = context(store)
    seen: list[bool] = []

    class Watching(InMemoryLearner):
        async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
            seen.append(made.updating)
            return await super().optim_step(config)

        async def publish(self) -> int:
            seen.append(made.updating)
            return await super().publish()

    made.learner = Watching(engine=learner_of(made).engine)
    await create(SMALL | {"passes": 2}).fit(made)
    assert seen == [True] * 4 * 3


async def test_what_is_logged_of_an_update_is_of_all_its_passes(store: Store) -> None:
    made = context(store)

    class Counting(InMemoryLearner):
        async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
            found = await super().optim_step(config)
            number = float(len(self.steps))
            return found | {"grad_norm": number, "ratio/max": -number, "ratio/min": number}

    made.learner = Counting(engine=learner_of(made).engine)
    await create(SMALL | {"passes": 3, "updates": 2}).fit(made)
    logged = [
        [metrics[name] for name in ("grad_norm", "ratio/max", "ratio/min")] for _, metrics in made.logged
    ]
    assert logged == [[2.0, -1, 1], [5.0, -4, 4]]


async def test_every_number_is_logged_by_its_usual_name(store: Store) -> None:
    made = context(store)
    await create(SMALL).fit(made)
    assert {
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "loss",
        "grad_norm",
        "learning_rate",
        "version",
        "num_tokens",
        "completions/mean_length",
        "masked_share",
        "forest/size",
    } <= set(made.logged[0][1])
    assert [metrics["num_tokens"] for _, metrics in made.logged] == [48.0, 96.0, 144.0, 192.0]
    assert [metrics["version"] for _, metrics in made.logged] == [0.0, 1.0, 2.0, 3.0]


async def test_a_resumed_run_does_what_an_uninterrupted_one_does(store: Store, tmp_path: Path) -> None:
    whole = context(store, val=["x"], directory=tmp_path / "whole")
    await create(SMALL).fit(whole)
    step, state = whole.checkpoints[0]
    resumed = context(store, val=["x"], state=state)
    await learner_of(resumed).load_state(tmp_path / "whole" / str(step))
    await create(SMALL).fit(resumed)
    assert resumed.logged == whole.logged[step:]
    assert learner_of(resumed).batches == learner_of(whole).batches[step:]
    assert learner_of(resumed).weight == learner_of(whole).weight
    assert sorted(resumed.reports) == ["after"]


async def test_one_seed_gives_one_result_and_another_seed_another(store: Store) -> None:
    tasks: dict[str, list[Json]] = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        made = context(
            store, seed=seed, play=lambda task, episode, _, n=name: tasks.setdefault(n, []).append(task)
        )
        await create(SMALL | {"max_masked_share": 1.0}).fit(made)
    assert tasks["one"] == tasks["again"] != tasks["other"]


async def test_an_update_with_nothing_to_learn_goes_by(store: Store) -> None:
    def same(task: Json, episode: EpisodeBuilder, version: int) -> None:
        episode.call([1], [2], version=version)
        episode.reward(1.0)

    made = context(store, play=same)
    await create(SMALL).fit(made)
    assert learner_of(made).weight == 0
    assert len(made.logged) == 4
    assert made.events[0] == ("phase", "lightningrl of 4")
    assert [kind for kind, _ in made.events[1:]] == ["nothing_to_train"] * 4
    assert "100% of the groups with equal returns" in made.events[1][1]


async def test_rollouts_without_a_reward_have_none_instead_of_0(store: Store) -> None:
    def unjudged(task: Json, episode: EpisodeBuilder, version: int) -> None:
        episode.call([1], [2], version=version)

    made = context(store, play=unjudged)
    await create(SMALL | {"updates": 1}).fit(made)
    assert not {"reward", "reward_std", "frac_reward_zero_std"} & made.logged[0][1].keys()
    assert made.logged[0][1]["rollouts/dropped"] == 8.0
    assert "no rollout was scored, 8 without a reward" in made.events[1][1]


async def test_rollouts_without_a_call_to_train_say_so(store: Store) -> None:
    def silent(task: Json, episode: EpisodeBuilder, version: int) -> None:
        episode.reward(random.Random(episode.rollout_id).random())

    made = context(store, play=silent)
    await create(SMALL | {"updates": 1}).fit(made)
    assert "8 rollouts scored, none of which made a call that is trained" in made.events[1][1]


async def test_rewards_that_are_too_large_to_be_squared_say_so(store: Store) -> None:
    def huge(task: Json, episode: EpisodeBuilder, version: int) -> None:
        episode.call([1], [2], version=version)
        episode.reward(random.Random(episode.rollout_id).random() * 1e200)

    with pytest.raises(NumericalError, match=r"returns as large as .*e\+.* stage validate a range"):
        await create(SMALL).fit(context(store, play=huge))


async def test_calls_that_another_temperature_sampled_are_told_of_once(store: Store) -> None:
    def cold(task: Json, episode: EpisodeBuilder, version: int) -> None:
        rng = random.Random(episode.rollout_id)
        for temperature in (0.5, None, 1):
            record = TokenRecord.pack([1], [rng.randrange(9)], [-0.5], version=version)
            known = {semconv.REQUEST_TEMPERATURE: temperature} if temperature else {}
            episode.span(semconv.OPERATION_CHAT, attributes=known, tokens=(record,))
        episode.reward(rng.random())

    made = context(store, play=cold)
    await create(SMALL).fit(made)
    assert [kind for kind, _ in made.events] == ["phase", "other_temperature"]
    assert "8 of 16 trained calls that name their temperature were sampled at 0.5" in made.events[1][1]
    assert made.logged[0][1]["sampling/temperature/min"] == 0.5
    assert made.logged[0][1]["sampling/temperature/max"] == 1.0


async def test_too_many_calls_without_tokens_stop_the_run(store: Store) -> None:
    def blind(task: Json, episode: EpisodeBuilder, version: int) -> None:
        episode.call([1], [2], version=version)
        for _ in range(3):
            episode.call([1], [2], incomplete="the upstream gives no ids")
        episode.reward(1.0)

    with pytest.raises(EngineError, match=r"75% of the calls of update 0 .*max_masked_share=0.5.*agl doctor"):
        await create(SMALL).fit(context(store, play=blind))


async def test_calls_of_an_old_policy_are_never_trained(store: Store) -> None:
    def stale(task: Json, episode: EpisodeBuilder, version: int) -> None:
        play(task, episode, version - 1)

    made = context(store, play=stale)
    await create(SMALL | {"max_masked_share": 1.0}).fit(made)
    assert learner_of(made).batches == []


async def test_evaluations_come_as_often_as_asked(store: Store) -> None:
    made = context(store, val=["x"])
    await create(SMALL | {"evaluate_every": 2}).fit(made)
    assert sorted(made.reports) == ["after", "before", "val"]


async def test_a_run_without_tasks_or_learner_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="no training tasks"):
        await create({}).fit(context(store, train=[]))
    with pytest.raises(ConfigError, match="no engine that learns"):
        await create({}).fit(context(store, learner=None))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"group_sice": 8}, "did you mean 'group_size'"),
        ({"group_size": 1}, "take at least 2, or advantage 'reinforce'"),
        ({"loss": {"name": "ppo_clip", "dual_clip": 0.5}}, "more than 1"),
        ({"advantage": "grp"}, "advantage"),
        ({"loss": {"name": "ppo_clip", "clip_low": 2.0}}, "clip_low|loss"),
        ({"tasks_per_update": 0}, "tasks_per_update"),
        ({"loss": {"name": "gspo", "clip": 0.1}}, "unknown field `clip`"),
        ({"loss": {"name": "ppo_clip", "max_ratio": 1.1}}, "more than 1 . clip_high"),
        ({"std_eps": 1e-4, "advantage": "rloo"}, "divides by no deviation"),
        ({"advantage": "maxrl", "kl": {"placement": "reward"}}, "put it in the loss"),
        ({"compare": "agent", "advantage": "gae"}, "compares no decisions of a group"),
        ({"aggregation": "sequence_sum_norm"}, "give it, such as"),
        ({"kl": {"estimator": "k1"}}, "noise around 0"),
        ({"kl": {"estimator": "k2", "cap": 1.0}}, "leave cap out"),
        ({"kl": {"placement": "reward", "corrected": True}}, "has no gradient"),
        ({"kl": {"placement": "reward"}, "advantage": "gdpo"}, "put it in the loss"),
        ({"correction": [{"name": "tis"}], "old_policy": "sampler"}, "count it twice"),
        ({"correction": [{"name": "icepop"}], "loss": "gspo"}, "could reject a part"),
        ({"correction": [{"name": "opsm", "unit": "rollout"}], "loss": "gspo"}, "same unit"),
        ({"correction": [{"name": "opsm"}, {"name": "opsm"}]}, "one is enough"),
        ({"asynchronous": {"in_flight": True}}, "max_staleness is 0, which is on-policy"),
        ({"max_staleness": 1, "passes": 2}, "every group begun before an update would be stale"),
        ({"max_staleness": 2, "passes": 2}, "nothing corrects for the older policy"),
        ({"max_staleness": 1, "loss": "reinforce"}, "no ratio to the policy that sampled"),
        ({"offline": {}, "max_staleness": 1}, "max_staleness cannot be honoured"),
        ({"offline": {}, "selection": {"replace_flat": 1}}, "selection cannot be honoured"),
        ({"advantage": "reinforce", "selection": {"replace_flat": 1}}, "leave replace_flat out"),
        ({"advantage": "rae", "selection": {"replace_flat": 1}}, "leave replace_flat out"),
        ({"offline": {"window": 3}}, "take order 'recent'"),
        ({"offline": {"run": "x"}}, "unknown field `run`"),
        ({"selection": {"curriculum": {"lowest": 0.5, "highest": 0.5}}}, "no pass rate"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(params: dict[str, Json], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(params)


def test_a_single_rollout_per_task_is_fine_without_a_baseline() -> None:
    assert create({"group_size": 1, "advantage": "reinforce"}).config.group_size == 1


def test_every_setting_of_the_loss_reaches_it() -> None:
    expected = {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 3.0, "max_ratio": 0.0}
    assert create({"loss": {"name": "ppo_clip"} | expected}).config.loss_spec.params == expected
    assert create({"loss": "reinforce"}).config.loss_spec.params == {}


async def test_a_kl_is_refused_where_the_learner_keeps_no_reference(store: Store) -> None:
    with pytest.raises(ConfigError, match="InMemoryLearner does not keep"):
        await create(SMALL | {"kl": {}}).fit(context(store))


async def test_the_reference_reaches_the_loss_and_flat_groups_are_pulled_too(store: Store) -> None:
    class Remembering(InMemoryLearner):
        async def reference_logprobs(self, forest: TokenForest) -> list[list[float]]:
            return [[-1.0] * len(tree) for tree in forest.trees]

    def same(task: Json, episode: EpisodeBuilder, version: int) -> None:
        episode.call([1], [2], version=version)
        episode.reward(1.0)

    made = context(store, play=same)
    made.learner = Remembering(engine=learner_of(made).engine)
    await create(SMALL | {"kl": {}, "updates": 1}).fit(made)
    ((forest, spec),) = made.learner.batches
    assert spec.name == "ppo_clip+kl"
    assert spec.inputs == (LossInput.REFERENCE,)
    assert all(value == -1.0 for tree in forest.trees for value in tree.reference_logprobs)
    assert any(weight for tree in forest.trees for weight in tree.weights)


async def test_the_learner_is_asked_for_old_probabilities_when_ratios_are_taken_to_its_own(
    store: Store,
) -> None:
    made = context(store)
    await create(SMALL | {"updates": 1, "correction": [{"name": "tis"}]}).fit(made)
    ((forest, _),) = learner_of(made).batches
    assert all(len(tree.old_logprobs) == len(tree) for tree in forest.trees)
    metrics = made.logged[0][1]
    assert metrics["sampling/sampling_logp_difference/max"] == 0.5
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.6487, abs=1e-4)


async def test_roles_keep_their_baselines_over_a_checkpoint(store: Store) -> None:
    made = context(store)
    await create(SMALL | {"advantage": "rae"}).fit(made)
    baselines = made.checkpoints[0][1]["baselines"]
    assert isinstance(baselines, dict)
    resumed = context(store, state=made.checkpoints[0][1])
    await create(SMALL | {"advantage": "rae"}).fit(resumed)
    assert resumed.logged[-1][1]["baseline/"] == made.logged[-1][1]["baseline/"]


@dataclass(frozen=True)
class Rates:
    schedule: str
    expected: list[float]


@pytest.mark.parametrize(
    "rates",
    [
        Rates("constant", [1 / 3, 2 / 3, 1.0, 1.0, 1.0, 1.0]),
        Rates("linear", [1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25]),
        Rates("cosine", [1 / 3, 2 / 3, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_warms_up_and_falls(rates: Rates) -> None:
    config = create({"updates": 6, "warmup": 2, "schedule": rates.schedule, "learning_rate": 1.0}).config
    found = [config.optimizer(update).learning_rate for update in range(6)]
    assert found == pytest.approx(rates.expected, abs=1e-6)


def test_every_epoch_has_every_task_once_in_another_order() -> None:
    chosen = [task for step in range(10) for task in choose_tasks(range(10), count=3, step=step, seed=0)]
    epochs = [chosen[start : start + 10] for start in (0, 10, 20)]
    assert all(Counter(epoch) == Counter(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
