"""Settings of LightningRL."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from agentlightning.engine import LossSpec, OptimizerConfig
from agentlightning.errors import ConfigError
from lightning_algorithm_lightningrl.advantages import Estimator
from lightning_algorithm_lightningrl.schedules import Schedule

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Loss(StrEnum):
    """Functions of `losses`."""

    PPO_CLIP = "ppo_clip"
    REINFORCE = "reinforce"


class LightningRLConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of LightningRL. Each is honoured or refused.

    Attributes:
        updates: Updates of the weights, each from fresh rollouts.
        tasks_per_update: Tasks (groups) sampled for one update.
        group_size: Rollouts per task; at least 2 unless `advantage` is `reinforce`.
        passes: Optimiser steps over the rollouts of one update; from the second on the loss clips in earnest.
        learning_rate: Peak step size of AdamW; 1e-6 suits full fine-tuning of models of billions of parameters, tiny
            models want 1e-4 and more.
        warmup: Updates over which the learning rate rises linearly from 0.
        schedule: What it does after the warm-up: `constant`, or `linear` or `cosine` down to 0 at the end.
        weight_decay: Decoupled weight decay of AdamW.
        max_grad_norm: Gradients are scaled down to this global norm; 0 is off.
        advantage: `grpo`, `dr_grpo`, `rloo` or `reinforce`; see `advantages`.
        std_eps: Added to the standard deviation of a group (`grpo`).
        loss: `ppo_clip` or `reinforce`; see `losses`.
        clip_low: The ratio of new to old probability is clipped at 1 - clip_low (`ppo_clip`).
        clip_high: And at 1 + clip_high (`ppo_clip`).
        dual_clip: Bound on the loss of tokens with negative advantage, in advantages; 0 is off (`ppo_clip`).
        max_masked_share: The run stops when a larger share of an update's calls cannot be trained on, because tokens
            are missing or their policy version is unknown or old.
        checkpoint_every: Updates between checkpoints; the last one is always saved.
        evaluate_every: Updates between evaluations; 0 evaluates only before and after.
    """

    updates: Count = 100
    tasks_per_update: Positive = 32
    group_size: Positive = 8
    passes: Positive = 1
    learning_rate: NonNegative = 1e-6
    warmup: Count = 0
    schedule: Schedule = Schedule.CONSTANT
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    advantage: Estimator = Estimator.GRPO
    std_eps: NonNegative = 1e-6
    loss: Loss = Loss.PPO_CLIP
    clip_low: Share = 0.2
    clip_high: NonNegative = 0.28
    dual_clip: NonNegative = 0.0
    max_masked_share: Share = 0.5
    checkpoint_every: Positive = 10
    evaluate_every: Count = 0

    def __post_init__(self) -> None:
        if self.group_size < 2 and self.advantage is not Estimator.REINFORCE:
            raise ConfigError(
                f"group_size is {self.group_size}, but advantage {self.advantage.value!r} compares the rollouts of a "
                "task with each other; take at least 2, or advantage 'reinforce'"
            )
        if 0 < self.dual_clip <= 1:
            raise ConfigError(f"dual_clip is {self.dual_clip!r}; give more than 1 (3 is usual), or 0 for off")

    @property
    def loss_spec(self) -> LossSpec:
        """The loss as the learner takes it."""
        clip = {"clip_low": self.clip_low, "clip_high": self.clip_high, "dual_clip": self.dual_clip}
        return LossSpec(
            name=self.loss.value,
            target=f"lightning_algorithm_lightningrl.losses:{self.loss.value}",
            params=dict(clip) if self.loss is Loss.PPO_CLIP else {},
        )

    def optimizer(self, update: int) -> OptimizerConfig:
        """The optimiser's settings at an update, from 0."""
        factor = self.schedule.factor(update, total=self.updates, warmup=self.warmup)
        return OptimizerConfig(
            learning_rate=self.learning_rate * factor,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
        )
