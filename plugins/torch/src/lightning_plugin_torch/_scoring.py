"""Log-probabilities of the tokens of a forest, without ever holding the logits of all, and values of their states."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch.utils.checkpoint import checkpoint

from lightning_plugin_torch._hidden import hidden_states
from lightning_plugin_torch._layout import Batch
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._value_head import ValueHead

LOGITS_AT_ONCE = 2**25
"""Most logits that exist at a time, in numbers: 128 MiB of float32."""


class Asked(StrEnum):
    """What is asked about each wanted node.

    Attributes:
        LOGPROBS: Its log-probability, `[K]`.
        VALUES: Value of the state before it, `[K]`.
        BOTH: One beside the other, `[K, 2]`.
    """

    LOGPROBS = "logprobs"
    VALUES = "values"
    BOTH = "both"


def score(
    model: LoadedModel, batch: Batch, *, asked: Asked = Asked.LOGPROBS, head: ValueHead | None = None
) -> torch.Tensor:
    """What is asked about the wanted nodes of a batch, in float32; without a head, log-probabilities."""
    hidden_K_D = hidden_states(model, batch)
    if head is None or asked is Asked.LOGPROBS:
        return _logprobs(model, hidden_K_D, batch.target_K)
    values_K_1: torch.Tensor = head(hidden_K_D)
    if asked is Asked.VALUES:
        return values_K_1.squeeze(1)
    return torch.cat((_logprobs(model, hidden_K_D, batch.target_K)[:, None], values_K_1), dim=1)


def _logprobs(model: LoadedModel, hidden_K_D: torch.Tensor, target_K: torch.Tensor) -> torch.Tensor:
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
