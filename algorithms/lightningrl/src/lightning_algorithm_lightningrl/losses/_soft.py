"""Losses that keep a gradient where PPO's clip has none, or drop it by another rule: CISPO, SAPO, DPPO."""

from __future__ import annotations

import torch

from lightning_algorithm_lightningrl.losses._ratio import LossResult, clipped, log_ratios, report


def cispo(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> LossResult:
    """CISPO with both bounds (arXiv 2506.13585, equation 4; verl).

    The token loss is -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) A logprob: every token keeps a gradient, and its
    factor is what is clipped. `cispo_cap` is the other loss of this name.
    """
    ratio_T = log_ratios(logprobs_T, old_logprobs_T).exp().detach()
    factor_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_T = -factor_T * advantages_T * logprobs_T
    bounds = clipped(ratio_T < 1.0 - clip_low, ratio_T > 1.0 + clip_high, loss_T)
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T) | bounds


def cispo_cap(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    cap: float = 5.0,
) -> LossResult:
    """CISPO with an upper bound alone, itself the cap (ScaleRL, arXiv 2510.13786; TRL): -sg(min(ratio, cap)) A logprob.

    It is truncated importance sampling of the plain policy gradient.
    """
    ratio_T = log_ratios(logprobs_T, old_logprobs_T).exp().detach()
    loss_T = -ratio_T.clamp(max=cap) * advantages_T * logprobs_T
    bounds = clipped(torch.zeros_like(ratio_T, dtype=torch.bool), ratio_T > cap, loss_T)
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T) | bounds


def sapo(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> LossResult:
    """Soft adaptive gates instead of a clip (arXiv 2511.20347, eq. 5 and 6): -(4 / tau) sigmoid(tau (ratio - 1)) A.

    tau is `tau_positive` where A > 0, else `tau_negative`. At ratio 1 the gradient is that of the policy gradient.
    """
    ratio_T = log_ratios(logprobs_T, old_logprobs_T).exp()
    tau_T = torch.where(advantages_T > 0, tau_positive, tau_negative).to(ratio_T.dtype)
    loss_T = -(4.0 / tau_T) * torch.sigmoid(tau_T * (ratio_T - 1.0)) * advantages_T
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T)


def dppo_tv(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    band_low: float = 0.2,
    band_high: float = 0.2,
    cap: float = 20.0,
) -> LossResult:
    """DPPO with the binary total variation (arXiv 2602.04879): -sg(min(ratio, cap)) A logprob inside a band, else 0.

    The band is in probabilities, not in their ratio: new - old <= band_high where A > 0, >= -band_low elsewhere. A rare
    token may so move far in ratio, and a likely one is stopped early.
    """
    moved_T = (logprobs_T.exp() - old_logprobs_T.exp()).detach()
    above_T = (moved_T > band_high) & (advantages_T > 0)
    below_T = (moved_T < -band_low) & (advantages_T <= 0)
    return _banded(logprobs_T, old_logprobs_T, advantages_T, weights_T, outside=(below_T, above_T), cap=cap)


def dppo_kl(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    band_low: float = 0.05,
    band_high: float = 0.05,
    cap: float = 20.0,
) -> LossResult:
    """DPPO with the binary KL divergence (arXiv 2602.04879): as `dppo_tv`, with another band.

    It bounds KL(old || new) between "this token" and "any other one", on the side that the gradient would go on to.
    """
    new_T, old_T = logprobs_T.exp().detach(), old_logprobs_T.exp()
    rest_T = ((1.0 - old_T + 1e-8) / (1.0 - new_T + 1e-8)).log()
    divergence_T = old_T * (old_logprobs_T - logprobs_T.detach()) + (1.0 - old_T) * rest_T
    above_T = (divergence_T > band_high) & (new_T > old_T) & (advantages_T > 0)
    below_T = (divergence_T > band_low) & (new_T < old_T) & (advantages_T <= 0)
    return _banded(logprobs_T, old_logprobs_T, advantages_T, weights_T, outside=(below_T, above_T), cap=cap)


def _banded(
    logprobs_T: torch.Tensor,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    *,
    outside: tuple[torch.Tensor, torch.Tensor],
    cap: float,
) -> LossResult:
    ratio_T = log_ratios(logprobs_T, old_logprobs_T).exp().detach().clamp(max=cap)
    inside_T = (~(outside[0] | outside[1])).to(ratio_T.dtype)
    loss_T = -ratio_T * advantages_T * logprobs_T * inside_T
    return (weights_T * loss_T).sum(), report(logprobs_T, old_logprobs_T) | clipped(*outside, loss_T)
