"""Settings of supervised fine-tuning."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from agentlightning.engine import OptimizerConfig
from agentlightning.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls of the store are learned from: those of finished rollouts for training that were not failures.

    Attributes:
        run_id: Only those of this run; empty takes all, imported traces too.
        min_reward: Only of rollouts with at least this outcome; None takes also those that nobody has graded.
    """

    run_id: str = ""
    min_reward: float | None = None


class SFTConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of supervised fine-tuning. Each is honoured or refused.

    Attributes:
        demonstrations: Path of a JSONL file; each line has `messages`, and `tools` if the assistant had any.
        stored: Learns from what agents did, as the run's store has it, in place of a file; `{}` is everything.
        steps: Optimiser steps; None takes as many as `epochs` need.
        epochs: Passes over the demonstrations; None is one, unless `steps` is given.
        batch_size: Demonstrations per optimiser step.
        learning_rate: Peak step size of AdamW.
        schedule: What the learning rate does after its warm-up: stay, fall to 0 in a line or a half cosine, or stay for
            half of the steps and fall in a line for the rest (`wsd`: warm-up, stable, decay).
        warmup: Steps over which the learning rate rises linearly.
        prompt_weight: Loss weight of a token that the assistant did not write, relative to one that it did. Usually 0;
            a little of it helps a model without any pre-training.
        weight_decay: Decoupled weight decay of AdamW.
        max_grad_norm: Gradients are scaled down to this global norm; 0 is off.
        log_every: Steps between logged metrics; the last step is always logged.
        checkpoint_every: Steps between checkpoints; the last one is always saved.
    """

    demonstrations: str = ""
    stored: Stored | None = None
    steps: Positive | None = None
    epochs: Positive | None = None
    batch_size: Positive = 32
    learning_rate: NonNegative = 1e-5
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup: Count = 0
    prompt_weight: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    log_every: Positive = 1
    checkpoint_every: Positive = 100

    def __post_init__(self) -> None:
        if bool(self.demonstrations) == (self.stored is not None):
            found = f"demonstrations is {self.demonstrations!r} and stored is {self.stored!r}"
            raise ConfigError(
                f"{found}; give one of them: the path of a JSONL file, or stored = {{}} for what the store has"
            )
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(f"steps is {self.steps} and epochs is {self.epochs}; give only one of them")

    def total(self, demonstrations: int) -> int:
        """Optimiser steps for this many demonstrations; the last batch of all may reach into another epoch."""
        if self.steps is not None:
            return self.steps
        return -(-(self.epochs or 1) * demonstrations // self.batch_size)

    def optimizer(self, step: int, *, total: int) -> OptimizerConfig:
        """The optimiser's settings at a step of `total`, from 0."""
        return OptimizerConfig(
            learning_rate=self.learning_rate * self._factor(step, total),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
        )

    def _factor(self, step: int, total: int) -> float:
        """Share of the peak learning rate at a step."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, total - self.warmup)
        match self.schedule:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 - done
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * done))
            case "wsd":
                return min(1.0, 2.0 * (1.0 - done))
