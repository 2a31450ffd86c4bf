"""Estimators of the KL divergence to a reference policy from sampled tokens."""

from __future__ import annotations

import torch

from lightning_algorithm_lightningrl.losses._ratio import LARGEST_LOG_RATIO


def kl_divergence(
    logprobs_T: torch.Tensor, *, reference_logprobs_T: torch.Tensor, estimator: str, cap: float = 0.0
) -> torch.Tensor:
    """KL(policy || reference) at each token (Schulman, "Approximating KL divergence", 2020), `[T]`.

    With x = policy - reference: k1 = x, k2 = x² / 2, k3 = exp(-x) + x - 1, x clamped to ±20 in k3 as verl and NeMo do.
    A `+` behind the name keeps the value and takes the gradient of k2, whose expectation is the gradient of the
    divergence; that of k1 is noise around 0.

    Args:
        logprobs_T: Of the policy, with gradient.
        reference_logprobs_T: Of the reference.
        estimator: `k1`, `k2`, `k3`, `k1+` or `k3+`.
        cap: Largest k3, beyond which it has no gradient (verl: 10); 0 is off.

    Raises:
        ValueError: There is no such estimator.
    """
    x_T = logprobs_T - reference_logprobs_T
    match estimator.removesuffix("+"):
        case "k1":
            value_T = x_T
        case "k2":
            value_T = 0.5 * x_T.square()
        case "k3":
            safe_T = x_T.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
            value_T = (-safe_T).exp() + safe_T - 1.0
            value_T = value_T.clamp(max=cap) if cap > 0 else value_T
        case _:
            raise ValueError(f"there is no KL estimator {estimator!r}; take k1, k2, k3, k1+ or k3+")
    if estimator.endswith("+"):
        gradient_T = 0.5 * x_T.square()
        return value_T.detach() + gradient_T - gradient_T.detach()
    return value_T
