"""Settings of supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated

import msgspec

from agentlightning.engine import OptimizerConfig
from agentlightning.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]


class SFTConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of supervised fine-tuning. Each is honoured or refused.

    Attributes:
        demonstrations: Path of a JSONL file; each line has `messages`, and `tools` if the assistant had any.
        steps: Optimiser steps; None takes as many as `epochs` need.
        epochs: Passes over the demonstrations; None is one, unless `steps` is given.
        batch_size: Demonstrations per optimiser step.
        learning_rate: Peak step size of AdamW.
        warmup: Steps over which the learning rate rises linearly.
        weight_decay: Decoupled weight decay of AdamW.
        max_grad_norm: Gradients are scaled down to this global norm; 0 is off.
        checkpoint_every: Steps between checkpoints; the last one is always saved.
    """

    demonstrations: str
    steps: Positive | None = None
    epochs: Positive | None = None
    batch_size: Positive = 32
    learning_rate: NonNegative = 1e-5
    warmup: Count = 0
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    checkpoint_every: Positive = 100

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(f"steps is {self.steps} and epochs is {self.epochs}; give only one of them")

    def total(self, demonstrations: int) -> int:
        """Optimiser steps for this many demonstrations; the last batch of all may reach into another epoch."""
        if self.steps is not None:
            return self.steps
        return -(-(self.epochs or 1) * demonstrations // self.batch_size)

    def optimizer(self, step: int) -> OptimizerConfig:
        """The optimiser's settings at a step, from 0."""
        return OptimizerConfig(
            learning_rate=self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1)),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
        )
