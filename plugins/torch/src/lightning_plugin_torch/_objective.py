"""A loss over a forest: its value, its metrics, and its gradient by what the learner says of each token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agentlightning.engine import LossSpec
from agentlightning.types import TokenTree
from lightning_plugin_torch._columns import Columns
from lightning_plugin_torch._loss import load_loss
from lightning_plugin_torch._parts import Part
from lightning_plugin_torch._value_columns import ValueColumns


class Objective:
    """Adds up what a loss says of micro-batches.

    Args:
        trees: The trees, as they are trained.
        spec: The loss.
        device: Where log-probabilities are.

    Raises:
        TargetError: The loss cannot be imported.
        ConfigError: It asks for what cannot be given.
    """

    def __init__(self, trees: Sequence[TokenTree], spec: LossSpec, *, device: torch.device) -> None:
        self._loss = load_loss(spec)
        self._params = spec.params
        self._values = ValueColumns(spec)
        self._columns = Columns(trees, self._values.others)
        self._device = device
        self.sums: dict[str, float] = {"loss": 0.0, "tokens": 0.0}

    def separable(self, batches: Sequence[Sequence[Part]]) -> bool:
        """Whether the losses of micro-batches by themselves add up to that of all: no call or rollout is split."""
        return self._columns.whole(batches)

    def gradient(self, scores: torch.Tensor, parts: Sequence[Part], *, counted: bool = True) -> torch.Tensor:
        """The loss's gradient by each score of some parts, in their shape; adds value and metrics up if counted.

        Args:
            scores: Log-probabilities `[K]`, or with the values of the states before, `[K, 2]`.
            parts: Where they are from.
            counted: Whether value and metrics are added up.

        Raises:
            ConfigError: The loss asks for values, and there are none.
        """
        leaf = scores.detach().requires_grad_()
        with torch.enable_grad():
            columns = self._columns.of(parts, device=self._device) | self._values.of(leaf, parts)
            logprobs_K = leaf if leaf.ndim == 1 else leaf[:, 0]
            value, metrics = self._loss(logprobs_K, **{**columns, **self._params})
            (gradient,) = torch.autograd.grad(value, leaf)
        if not counted:
            return gradient
        self._add("loss", value.item())
        self._add("tokens", float(len(leaf)))
        for name, metric_K in metrics.items():
            self._add(name, metric_K.detach().double().sum().item())
        return gradient

    def means(self) -> dict[str, float]:
        """The loss, which is a sum; means of its metrics over nodes; and how many nodes there were."""
        count = self.sums["tokens"]
        return {
            name: total if name in ("loss", "tokens") else total / count for name, total in self.sums.items()
        }

    def _add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
