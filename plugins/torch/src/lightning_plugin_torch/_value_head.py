"""What a state is worth: a linear head on the hidden states that the next token is predicted from."""

from __future__ import annotations

from typing import Any

import torch

from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._options import ValueHeadOptions


class ValueHead(torch.nn.Module):
    """One linear layer in float32, of zeros at first: it expects 0 until it has learned otherwise.

    Args:
        width: Size of a hidden state.
        attached: Whether its gradients go on into the model.
    """

    def __init__(self, width: int, *, attached: bool) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        self._attached = attached

    def forward(self, hidden_K_D: torch.Tensor) -> torch.Tensor:
        """Values of states, `[K, 1]`: FSDP wants no view, such as `[K]` would be."""
        seen_K_D = hidden_K_D if self._attached else hidden_K_D.detach()
        values_K_1: torch.Tensor = self.linear(seen_K_D.float())
        return values_K_1


def value_head_of(model: LoadedModel, options: ValueHeadOptions) -> ValueHead:
    """A fresh head that fits a model."""
    module: Any = model.module
    width = int(module.get_output_embeddings().weight.shape[-1])
    return ValueHead(width, attached=options.attached).to(model.device)
