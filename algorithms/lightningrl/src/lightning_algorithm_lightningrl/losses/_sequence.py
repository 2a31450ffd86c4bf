"""Losses with one ratio per sequence: GSPO and GMPO. A sequence is a call, or a whole rollout with all its calls."""

from __future__ import annotations

import torch

from lightning_algorithm_lightningrl.losses._ratio import (
    LossResult,
    clipped,
    log_ratios,
    report,
    segment_mean,
    segments,
)


def gspo(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    calls_T: torch.Tensor | None = None,
    rollouts_T: torch.Tensor | None = None,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    token: bool = False,
) -> LossResult:
    """GSPO (arXiv 2507.18071, equation 5): PPO's clip of s = exp(mean of new - old over the sequence's tokens).

    The `token` form (equation 14) is sg[s] new / sg[new]: the same value, and the same gradient where the tokens of a
    sequence share advantage and weight; where they do not, each token's advantage moves that token alone.

    Args:
        logprobs_T: Under the weights being trained, with gradient.
        old_logprobs_T: Under the policy that ratios are taken to.
        advantages_T: One per token.
        weights_T: Loss weight per token.
        calls_T: Sequence of each token, if sequences are calls.
        rollouts_T: Sequence of each token, if sequences are rollouts.
        clip_low: Lower bound of s is 1 - clip_low.
        clip_high: Upper bound of s is 1 + clip_high.
        token: Whether to take the token form.
    """
    mean_T = segment_mean(log_ratios(logprobs_T, old_logprobs_T), segments(calls_T, rollouts_T))
    ratio_T = (logprobs_T - logprobs_T.detach() + mean_T.detach() if token else mean_T).exp()
    clipped_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_T = torch.maximum(-ratio_T * advantages_T, -clipped_T * advantages_T)
    low_T = (ratio_T < 1.0 - clip_low) & (advantages_T < 0)
    high_T = (ratio_T > 1.0 + clip_high) & (advantages_T > 0)
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T) | clipped(low_T, high_T, loss_T)


def gmpo(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    calls_T: torch.Tensor | None = None,
    rollouts_T: torch.Tensor | None = None,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
) -> LossResult:
    """GMPO (arXiv 2507.20673): the geometric mean of ratios that are clipped token by token, times -A.

    Log-ratios are clipped to [-clip_low, clip_high], a token's only on the side where its advantage would push it
    further out.
    """
    log_ratio_T = log_ratios(logprobs_T, old_logprobs_T)
    high_T = (log_ratio_T > clip_high) & (advantages_T > 0)
    low_T = (log_ratio_T < -clip_low) & (advantages_T < 0)
    bounded_T = torch.where(high_T | low_T, log_ratio_T.clamp(-clip_low, clip_high), log_ratio_T)
    bounded_T = torch.where(advantages_T == 0, torch.zeros_like(bounded_T), bounded_T)
    ratio_T = segment_mean(bounded_T, segments(calls_T, rollouts_T)).exp()
    loss_T = -ratio_T * advantages_T
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T) | clipped(low_T, high_T, loss_T)
