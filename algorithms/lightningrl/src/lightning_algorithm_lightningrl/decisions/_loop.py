"""From rollouts to a decision policy, top to bottom."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from agentlightning.algorithm import TrainingContext
from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_algorithm_lightningrl._settings import decode_settings
from lightning_algorithm_lightningrl.decisions._config import DecisionsConfig
from lightning_algorithm_lightningrl.decisions._gate import Gate, live_policy
from lightning_algorithm_lightningrl.decisions._learner import DecisionLearner


def create(params: Mapping[str, Json]) -> Decisions:
    """Builds the algorithm from its configuration. Raises `ConfigError`."""
    return Decisions(decode_settings(params, DecisionsConfig, where="algorithm 'decisions'"))


class Decisions:
    """Learns what `agl.decide` chooses."""

    name = "decisions"

    def __init__(self, config: DecisionsConfig) -> None:
        self.config = config

    async def fit(self, context: TrainingContext) -> None:
        """Evaluates what is live, trains from wherever the last checkpoint was, and evaluates again.

        Raises:
            ConfigError: There are no training tasks, or rollouts take no decisions.
            NumericalError: A gradient is not finite.
        """
        config = self.config
        if not context.train:
            raise ConfigError("decisions has no training tasks; give some (train=… or --train FILE)")
        learner = DecisionLearner(
            config,
            state=context.state,
            incumbent=await live_policy(context, resource=config.resource),
        )
        if context.val and not context.state:
            await context.evaluate(label="before", step=0)
        gate = Gate(context, config=config, learner=learner)
        step = learner.state.update
        await context.phase(self.name, total=config.updates - step)

        while step < config.updates:
            # what to learn from: a group of rollouts per task, all decided by the policy as it is
            tasks = choose_tasks(context.train, count=config.tasks_per_update, step=step, seed=context.seed)
            candidate = await gate.candidate(step=step)
            rollouts = await context.rollouts(
                tasks, samples=config.group_size, step=step, resources=candidate
            )
            experience = await context.experience(rollouts, step=step)

            # learn, and let the policy go live once it is better than what is
            metrics = learner.learn(experience)
            done = step + 1
            if done % config.promote_every == 0 or done == config.updates:
                metrics |= await gate.judge(step=step)
            known = {
                name: metrics[f"decisions/{name}"]
                for name in ("reward", "reward_std")
                if f"decisions/{name}" in metrics
            }
            await context.log(metrics | known, step=step)

            step = done
            if step % config.checkpoint_every == 0 or step == config.updates:
                await context.checkpoint(step, learner.saved())
            if config.evaluate_every and context.val and step % config.evaluate_every == 0:
                await context.evaluate(label="val", step=step, resources=await gate.candidate(step=step))

        if context.val:
            await context.evaluate(label="after", step=step)


def choose_tasks(tasks: Sequence[Json], *, count: int, step: int, seed: int) -> list[Json]:
    """The tasks of a step: consecutive pieces of one shuffled epoch after the other, known from the step alone."""
    chosen: list[Json] = []
    orders: dict[int, list[int]] = {}
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(tasks))
        if epoch not in orders:
            orders[epoch] = list(range(len(tasks)))
            random.Random(f"decisions/{seed}/{epoch}").shuffle(orders[epoch])
        chosen.append(tasks[orders[epoch][index]])
    return chosen
