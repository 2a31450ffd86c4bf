"""Ratios of new to old probability, of tokens and of whole sequences, and what every loss reports."""

from __future__ import annotations

import torch

LARGEST_LOG_RATIO = 20.0
"""The log-ratio is clamped to this, as verl and OpenRLHF do: exp(20) is absurd, but finite."""

LossResult = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""The summed loss, and metrics with one value per token."""


def log_ratios(logprobs_T: torch.Tensor, old_logprobs_T: torch.Tensor) -> torch.Tensor:
    """New - old, clamped; `[T]`."""
    return (logprobs_T - old_logprobs_T).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def segment_mean(values_T: torch.Tensor, segments_T: torch.Tensor) -> torch.Tensor:
    """At each token the mean over the tokens of its segment; segments are told apart by any integers."""
    _, place_T = torch.unique(segments_T, return_inverse=True)
    count = int(place_T.max()) + 1 if len(place_T) else 0
    sums_S = values_T.new_zeros(count).index_add(0, place_T, values_T)
    sizes_S = values_T.new_zeros(count).index_add(0, place_T, torch.ones_like(values_T))
    return (sums_S / sizes_S)[place_T]


def segments(calls_T: torch.Tensor | None, rollouts_T: torch.Tensor | None) -> torch.Tensor:
    """The one that was given. Raises `ValueError` unless it is exactly one."""
    if calls_T is not None and rollouts_T is None:
        return calls_T
    if rollouts_T is not None and calls_T is None:
        return rollouts_T
    raise ValueError(
        "a loss over sequences takes either calls_T or rollouts_T; name one among the loss's inputs"
    )


def report(logprobs_T: torch.Tensor, old_logprobs_T: torch.Tensor) -> dict[str, torch.Tensor]:
    """Ratio, KL(old || new) by the k3 estimator (exp(x) - 1 - x for x = new - old), and surprise for entropy."""
    log_ratio_T = log_ratios(logprobs_T, old_logprobs_T).detach()
    ratio_T = log_ratio_T.exp()
    return {"ratio": ratio_T, "kl": ratio_T - 1.0 - log_ratio_T, "entropy": -logprobs_T.detach()}


def clipped(low_T: torch.Tensor, high_T: torch.Tensor, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Shares of tokens that a lower or an upper bound takes the gradient from, by TRL's names."""
    return {
        "clip_ratio/low_mean": low_T.to(like.dtype),
        "clip_ratio/high_mean": high_T.to(like.dtype),
        "clip_ratio/region_mean": (low_T | high_T).to(like.dtype),
    }
