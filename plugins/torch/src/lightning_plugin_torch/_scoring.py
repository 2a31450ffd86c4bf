"""Log-probabilities of the tokens of a forest, without ever holding the logits of all."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from lightning_plugin_torch._hidden import hidden_states
from lightning_plugin_torch._layout import Batch
from lightning_plugin_torch._model import LoadedModel

LOGITS_AT_ONCE = 2**25
"""Most logits that exist at a time, in numbers: 128 MiB of float32."""


def score(model: LoadedModel, batch: Batch) -> torch.Tensor:
    """Log-probability of each wanted node, `[K]` in float32."""
    return score_states(model, states(model, batch), batch.target_K)


def states(model: LoadedModel, batch: Batch) -> torch.Tensor:
    """Last hidden states that predict the wanted nodes, `[K, D]`."""
    return hidden_states(model, batch)


def score_states(model: LoadedModel, hidden_K_D: torch.Tensor, target_K: torch.Tensor) -> torch.Tensor:
    """Log-probability of a token after each state, `[K]` in float32.

    Where more logits than `LOGITS_AT_ONCE` are needed, they are computed in parts, and again when their gradients are.
    """
    size = max(1, LOGITS_AT_ONCE // model.vocabulary)
    if len(hidden_K_D) <= size:
        return _chosen(model, hidden_K_D, target_K)
    parts = zip(torch.split(hidden_K_D, size), torch.split(target_K, size), strict=True)
    return torch.cat([checkpoint(_chosen, model, *part, use_reentrant=False) for part in parts])


def _chosen(model: LoadedModel, hidden_K_D: torch.Tensor, target_K: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.cross_entropy(model.head(hidden_K_D), target_K, reduction="none")
