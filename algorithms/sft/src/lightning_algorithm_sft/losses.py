"""The loss of supervised fine-tuning as a pure function of torch tensors."""

from __future__ import annotations

import torch


def cross_entropy(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The sum of weight times -logprob over `[T]` tokens; a learner's losses have the other two arguments as well."""
    del old_logprobs_T, advantages_T
    return -(weights_T * logprobs_T).sum(), {"entropy": -logprobs_T.detach()}
