"""Losses that look at one token at a time: PPO's clipped surrogate and the plain policy gradient."""

from __future__ import annotations

import torch

from lightning_algorithm_lightningrl.losses._ratio import LossResult, clipped, log_ratios, report


def ppo_clip(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 0.0,
    max_ratio: float = 0.0,
) -> LossResult:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7), to be minimised.

    With ratio = exp(logprobs - old_logprobs), the token loss is
    max(-ratio * A, -clip(ratio, 1 - clip_low, 1 + clip_high) * A). Bounds that differ are DAPO's "clip higher"
    (arXiv 2503.14476, section 3.1). Two ways to bound it where A < 0 and the ratio is large: `dual_clip` bounds it at
    dual_clip * |A| (arXiv 1912.09729, equation 5); `max_ratio` bounds the unclipped ratio (INTELLECT-2, TRL's
    `delta`), which is the same there and has no effect where A > 0.

    Args:
        logprobs_T: Under the weights being trained, with gradient.
        old_logprobs_T: Under the policy that ratios are taken to.
        advantages_T: One per token.
        weights_T: Loss weight per token.
        clip_low: Lower bound of the ratio is 1 - clip_low.
        clip_high: Upper bound of the ratio is 1 + clip_high.
        dual_clip: Above 1, or 0 for off.
        max_ratio: Above 1 + clip_high, or 0 for off.
    """
    ratio_T = log_ratios(logprobs_T, old_logprobs_T).exp()
    clipped_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    unclipped_T = ratio_T.clamp(max=max_ratio) if max_ratio > 0 else ratio_T
    loss_T = torch.maximum(-unclipped_T * advantages_T, -clipped_T * advantages_T)
    if dual_clip > 0:
        bounded_T = torch.minimum(loss_T, -dual_clip * advantages_T)
        loss_T = torch.where(advantages_T < 0, bounded_T, loss_T)
    low_T = (ratio_T < 1.0 - clip_low) & (advantages_T < 0)
    high_T = (ratio_T > 1.0 + clip_high) & (advantages_T > 0)
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T) | clipped(low_T, high_T, loss_T)


def reinforce(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
) -> LossResult:
    """The policy gradient itself: the token loss is -A * logprob (Williams 1992); the ratio is only reported."""
    loss_T = -advantages_T * logprobs_T
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T)
