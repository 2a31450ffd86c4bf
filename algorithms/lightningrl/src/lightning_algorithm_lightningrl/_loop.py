"""LightningRL (arXiv 2508.03680) from rollouts to weights, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

from agentlightning.algorithm import InFlightEngine, TrainingContext
from agentlightning.engine import InferenceEngine, Learner, ReferenceLearner, ValueLearner
from agentlightning.errors import ConfigError, EngineError
from agentlightning.types import Experience, Json
from lightning_algorithm_lightningrl._batch import Batch, make_batch
from lightning_algorithm_lightningrl._config import LightningRLConfig
from lightning_algorithm_lightningrl._credit_rules import CreditRules
from lightning_algorithm_lightningrl._metrics import over_passes
from lightning_algorithm_lightningrl._settings import decode_settings
from lightning_algorithm_lightningrl._sources import open_source
from lightning_algorithm_lightningrl._temperature import off_policy, temperature_metrics, temperatures
from lightning_algorithm_lightningrl.advantages import Compare


def create(params: Mapping[str, Json]) -> LightningRL:
    """Builds the algorithm from its configuration. Raises `ConfigError`."""
    return LightningRL(decode_settings(params, LightningRLConfig, where="algorithm 'lightningrl'"))


class LightningRL:
    """Reinforcement learning of the weights behind an agent's LLM calls."""

    name = "lightningrl"

    def __init__(self, config: LightningRLConfig) -> None:
        self.config = config

    async def fit(self, context: TrainingContext) -> None:
        """Evaluates, trains for `updates` steps from wherever the last checkpoint was, and evaluates again.

        Raises:
            ConfigError: There is nothing to learn from or nothing that learns, or settings do not go together.
            EngineError: Too many calls of an update cannot be trained on.
            NumericalError: Rewards are too large to be compared, or the loss or a gradient is not finite; the learner
                has saved the batch of the latter.
        """
        config = self.config
        engine, learner = _model(context, config)
        credit = CreditRules.of_run(context.run.config)
        credit.check(config.advantage, estimator=config.estimator)
        step = int(str(context.state.get("step", 0)))
        tokens = int(str(context.state.get("num_tokens", 0)))
        length = float(str(context.state.get("length", 0.0)))
        baselines = _baselines(context.state)
        told = False
        if context.val and not context.state:
            await context.evaluate(label="before", step=0)
        await context.phase(self.name, total=config.updates - step)

        async with open_source(context, engine, config) as source:
            while step < config.updates:
                # what to learn from: groups of rollouts, each of a task
                taken = await source.take(step)
                experience = await _scored(taken.experience, learner, config)
                batch = make_batch(
                    experience,
                    version=taken.version,
                    estimator=config.advantage,
                    std_eps=config.group_std_eps,
                    compare=config.compare or (Compare.AGENT if credit.agents else Compare.ROLLOUT),
                    aggregation=config.aggregation,
                    corrections=config.corrections,
                    kl_in_reward=config.kl_in_reward,
                    max_staleness=config.max_staleness,
                    trains_flat=config.trains_flat,
                    baselines=baselines,
                    credit=credit,
                )
                _check_masked(batch, config.max_masked_share, step=step)
                heat = temperatures(experience)
                if not told and (other := off_policy(heat)):
                    await context.event("other_temperature", f"update {step}: {other}")
                    told = True
                tokens += batch.forest.tokens_in
                baselines = batch.baselines
                length = length or batch.metrics["completions/mean_length"]

                # learn: gradients over every trained token, then new weights
                optimizer = config.optimizer(step)
                metrics = batch.metrics | taken.metrics | temperature_metrics(heat)
                metrics |= {"version": float(engine.version), "learning_rate": optimizer.learning_rate}
                metrics |= {"completions/length_drift": _drift(metrics["completions/mean_length"], length)}
                metrics |= {f"baseline/{agent}": value for agent, value in baselines.items()}
                if batch.trained:
                    passes = [await learner.forward_backward(batch.forest, config.loss_spec)]
                    async with _update(context, config):
                        passes[0] |= await learner.optim_step(optimizer)
                        for _ in range(config.passes - 1):
                            passes.append(await learner.forward_backward(batch.forest, config.loss_spec))
                            passes[-1] |= await learner.optim_step(optimizer)
                        await learner.publish()
                    metrics |= over_passes(passes)
                else:
                    await context.event("nothing_to_train", _nothing(batch, step=step))
                await context.log(metrics | {"num_tokens": float(tokens)}, step=step)

                step += 1
                if step % config.checkpoint_every == 0 or step == config.updates:
                    state = {
                        "step": step,
                        "num_tokens": tokens,
                        "length": length,
                        "baselines": dict(baselines),
                    }
                    await context.checkpoint(step, state | {"source": source.state()})
                if config.evaluate_every and context.val and step % config.evaluate_every == 0:
                    await context.evaluate(label="val", step=step)

        if context.val:
            await context.evaluate(label="after", step=step)


def _update(context: TrainingContext, config: LightningRLConfig) -> AbstractAsyncContextManager[None]:
    """While weights change: no call is in flight, unless it was asked that they go on."""
    return nullcontext() if config.asynchronous.in_flight else context.weight_update()


async def _scored(experience: Experience, learner: Learner, config: LightningRLConfig) -> Experience:
    """The experience with what the learner's weights, those the run began with, and its critic say of its tokens."""
    if experience.forest is None:
        return experience
    forest = experience.forest
    if config.asks_learner:
        forest = forest.with_column("old_logprobs", await learner.logprobs(forest))
    if config.kl is not None and isinstance(learner, ReferenceLearner):
        forest = forest.with_column("reference_logprobs", await learner.reference_logprobs(forest))
    if config.critic is not None and isinstance(learner, ValueLearner):
        forest = forest.with_column("values", await learner.values(forest))
    return replace(experience, forest=forest)


def _model(context: TrainingContext, config: LightningRLConfig) -> tuple[InferenceEngine, Learner]:
    if context.engine is None or context.learner is None:
        raise ConfigError(
            "lightningrl trains weights, and this run has no engine that learns; add one, such as --engine torch"
        )
    if not context.train and config.offline is None:
        raise ConfigError("lightningrl has no training tasks; give some (train=… or --train FILE)")
    if config.kl is not None and not isinstance(context.learner, ReferenceLearner):
        raise ConfigError(
            f"kl pulls towards the weights that the run began with, which {type(context.learner).__name__} does not "
            "keep; set reference = true of engine 'torch' (with lora it always keeps them), take another engine whose "
            "learner has reference_logprobs, or leave kl out"
        )
    if config.critic is not None and not isinstance(context.learner, ValueLearner):
        raise ConfigError(
            f"advantage 'token_gae' compares with what a value head expects, and {type(context.learner).__name__} has "
            "none; set value_head = {} of engine 'torch' or of the learner of 'vllm', or take an advantage without "
            "one, such as 'grpo'"
        )
    if config.asynchronous.in_flight and not isinstance(context.engine, InFlightEngine):
        raise ConfigError(
            f"in_flight changes weights under answers that are being sampled, which {type(context.engine).__name__} "
            "does not do; leave it out: calls in flight then end before weights change"
        )
    return context.engine, context.learner


def _check_masked(batch: Batch, limit: float, *, step: int) -> None:
    if batch.masked_share > limit:
        raise EngineError(
            f"{batch.masked_share:.0%} of the calls of update {step} cannot be trained on ({batch.masked!r}), more "
            f"than max_masked_share={limit!r} allows; `agl doctor` names the first of them and the remedy"
        )


def _baselines(state: Mapping[str, Json]) -> dict[str, float]:
    found = state.get("baselines")
    return {agent: float(str(value)) for agent, value in found.items()} if isinstance(found, dict) else {}


def _drift(length: float, first: float) -> float:
    """How much longer rollouts are than in the run's first update; 0.5 is half as long again."""
    return length / first - 1.0 if first else 0.0


def _nothing(batch: Batch, *, step: int) -> str:
    metrics = batch.metrics
    dropped = f"{metrics['rollouts/dropped']:.0f} without a reward or left out"
    if not metrics["rollouts/scored"]:
        return (
            f"update {step} has nothing to learn: no rollout was scored, {dropped}; see `agl pipeline show`"
        )
    if not metrics["completions/mean_calls"] and not any(batch.masked.values()):
        return (
            f"update {step} has nothing to learn: {metrics['rollouts/scored']:.0f} rollouts scored, none of which made "
            "a call that is trained; `agl pipeline show` says what became of their calls"
        )
    return (
        f"update {step} has nothing to learn: {metrics['rollouts/scored']:.0f} rollouts scored, {dropped}, "
        f"{metrics['frac_reward_zero_std']:.0%} of the groups with equal returns, masked calls {batch.masked!r}"
    )
