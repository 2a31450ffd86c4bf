"""Policy losses as pure functions of torch tensors.

Each takes `[T]` tensors over the trained tokens of a micro-batch and returns the summed loss and `[T]` metrics, which
the learner averages over all tokens. The loss is a plain sum of weight times token loss, so it is the same however
tokens are spread over micro-batches.
"""

from __future__ import annotations

import torch

LARGEST_LOG_RATIO = 20.0
"""The log-ratio is clamped to this, as verl and OpenRLHF do: exp(20) is absurd, but finite."""


def ppo_clip(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 0.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7), to be minimised.

    With ratio = exp(logprobs - old_logprobs), the token loss is
    max(-ratio * A, -clip(ratio, 1 - clip_low, 1 + clip_high) * A). Bounds that differ are DAPO's "clip higher"
    (arXiv 2503.14476, section 3.1); `dual_clip` bounds the loss at dual_clip * |A| where A < 0 (arXiv 1912.09729,
    equation 4).

    Args:
        logprobs_T: Under the weights being trained, with gradient.
        old_logprobs_T: Under the policy that sampled.
        advantages_T: One per token.
        weights_T: Loss weight per token.
        clip_low: Lower bound of the ratio is 1 - clip_low.
        clip_high: Upper bound of the ratio is 1 + clip_high.
        dual_clip: Above 1, or 0 for off.
    """
    ratio_T = _ratio(logprobs_T, old_logprobs_T)
    clipped_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_T = torch.maximum(-ratio_T * advantages_T, -clipped_T * advantages_T)
    if dual_clip > 0:
        bounded_T = torch.minimum(loss_T, -dual_clip * advantages_T)
        loss_T = torch.where(advantages_T < 0, bounded_T, loss_T)
    low_T = (ratio_T < 1.0 - clip_low) & (advantages_T < 0)
    high_T = (ratio_T > 1.0 + clip_high) & (advantages_T > 0)
    metrics = _metrics(logprobs_T, old_logprobs_T) | {
        "clip_ratio/low_mean": low_T.to(loss_T.dtype),
        "clip_ratio/high_mean": high_T.to(loss_T.dtype),
        "clip_ratio/region_mean": (low_T | high_T).to(loss_T.dtype),
    }
    return (weights_T * loss_T).sum(), metrics


def reinforce(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The policy gradient itself: the token loss is -A * logprob (Williams 1992); the ratio is only reported."""
    loss_T = -advantages_T * logprobs_T
    return (weights_T * loss_T).sum(), _metrics(logprobs_T, old_logprobs_T)


def _ratio(logprobs_T: torch.Tensor, old_logprobs_T: torch.Tensor) -> torch.Tensor:
    return (logprobs_T - old_logprobs_T).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def _metrics(logprobs_T: torch.Tensor, old_logprobs_T: torch.Tensor) -> dict[str, torch.Tensor]:
    """Ratio, KL(old || new) by the k3 estimator (exp(x) - 1 - x for x = new - old), and surprise for entropy."""
    log_ratio_T = (logprobs_T - old_logprobs_T).detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    ratio_T = log_ratio_T.exp()
    return {"ratio": ratio_T, "kl": ratio_T - 1.0 - log_ratio_T, "entropy": -logprobs_T.detach()}
