"""Supervised fine-tuning from recorded conversations to weights, top to bottom."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentlightning.algorithm import TrainingContext
from agentlightning.config import decode_params
from agentlightning.engine import Learner, LossSpec, Tokenized
from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_algorithm_sft._config import SFTConfig
from lightning_algorithm_sft._demonstrations import read_demonstrations, tokenize
from lightning_algorithm_sft._forest import demonstration_forest
from lightning_algorithm_sft._stored import stored_examples

CROSS_ENTROPY = LossSpec(name="cross_entropy", target="lightning_algorithm_sft.losses:cross_entropy")


def create(params: Mapping[str, Json]) -> SFT:
    """Builds the algorithm from its configuration. Raises `ConfigError`."""
    return SFT(decode_params(params, SFTConfig, where="algorithm 'sft'"))


class SFT:
    """Cross-entropy over what the assistant said in recorded conversations."""

    name = "sft"

    def __init__(self, config: SFTConfig) -> None:
        self.config = config

    async def fit(self, context: TrainingContext) -> None:
        """Trains from wherever the last checkpoint was, and publishes the weights at the end.

        Raises:
            ConfigError: The demonstrations cannot be used, or nothing learns.
            NumericalError: The loss or a gradient is not finite; the learner has saved the batch.
        """
        config, learner = self.config, context.learner
        if learner is None:
            raise ConfigError(
                "sft trains weights, and this run has no engine that learns; add one, such as --engine torch"
            )
        examples = await self._examples(context, learner)
        total = config.total(len(examples))
        step = int(str(context.state.get("step", 0)))
        tokens = int(str(context.state.get("num_tokens", 0)))
        if (known := context.state.get("examples", len(examples))) != len(examples):
            raise ConfigError(
                f"the run began with {known} examples, and now there are {len(examples)}; "
                "put back what has changed, or start another run"
            )
        await context.phase(self.name, total=total - step)

        while step < total:
            chosen = choose(len(examples), count=config.batch_size, step=step, seed=context.seed)
            forest = demonstration_forest(
                [examples[index] for index in chosen], prompt_weight=config.prompt_weight
            )
            tokens += forest.tokens_in

            optimizer = config.optimizer(step, total=total)
            metrics = await learner.forward_backward(forest, CROSS_ENTROPY)
            async with context.weight_update():
                metrics |= await learner.optim_step(optimizer)
                if step + 1 == total:
                    await learner.publish()
            metrics |= {
                "learning_rate": optimizer.learning_rate,
                "num_tokens": float(tokens),
                "forest/tokens_in": float(forest.tokens_in),
                "forest/size": float(forest.size),
            }
            step += 1
            if step % config.log_every == 0 or step == total:
                await context.log(metrics, step=step - 1)
            if step % config.checkpoint_every == 0 or step == total:
                await context.checkpoint(
                    step, {"step": step, "num_tokens": tokens, "examples": len(examples)}
                )

    async def _examples(self, context: TrainingContext, learner: Learner) -> list[Tokenized]:
        if self.config.stored is None:
            path = Path(self.config.demonstrations)
            return await tokenize(await asyncio.to_thread(read_demonstrations, path), learner)
        found = await stored_examples(context, learner, self.config.stored)
        reasons = "".join(f"; left out {count}: {why}" for why, count in found.left_out.items() if count)
        await context.event("sft", f"{len(found.tokenized)} answers of the store to learn from{reasons}")
        return found.tokenized


def choose(size: int, *, count: int, step: int, seed: int) -> Sequence[int]:
    """The examples of a step: consecutive pieces of one shuffled epoch after the other, known from the step alone."""
    chosen: list[int] = []
    orders: dict[int, list[int]] = {}
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, size)
        if epoch not in orders:
            orders[epoch] = list(range(size))
            random.Random(f"{seed}/{epoch}").shuffle(orders[epoch])
        chosen.append(orders[epoch][index])
    return chosen
