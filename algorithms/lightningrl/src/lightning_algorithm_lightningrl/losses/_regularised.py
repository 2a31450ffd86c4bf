"""A policy loss with what may stand beside it: KL to a reference, entropy, a mask of what has drifted off, values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from lightning_algorithm_lightningrl.losses._kl import kl_divergence
from lightning_algorithm_lightningrl.losses._ratio import LossResult, log_ratios, segment_mean, segments
from lightning_algorithm_lightningrl.losses._sequence import gmpo, gspo
from lightning_algorithm_lightningrl.losses._soft import cispo, cispo_cap, dppo_kl, dppo_tv, sapo
from lightning_algorithm_lightningrl.losses._token import ppo_clip, reinforce
from lightning_algorithm_lightningrl.losses._value import value_loss


class Policy(Protocol):
    """A policy loss."""

    def __call__(
        self,
        logprobs_T: torch.Tensor,
        *,
        old_logprobs_T: torch.Tensor,
        advantages_T: torch.Tensor,
        weights_T: torch.Tensor,
    ) -> LossResult:
        """The weighted sum, and metrics."""
        ...


POLICIES: Mapping[str, Policy] = {
    "ppo_clip": ppo_clip,
    "reinforce": reinforce,
    "cispo": cispo,
    "cispo_cap": cispo_cap,
    "sapo": sapo,
    "dppo_tv": dppo_tv,
    "dppo_kl": dppo_kl,
    "gspo": gspo,
    "gmpo": gmpo,
}
SEQUENCE_POLICIES = {"gspo", "gmpo"}


def regularised(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    policy: str,
    reference_logprobs_T: torch.Tensor | None = None,
    sampler_logprobs_T: torch.Tensor | None = None,
    calls_T: torch.Tensor | None = None,
    rollouts_T: torch.Tensor | None = None,
    values_T: torch.Tensor | None = None,
    old_values_T: torch.Tensor | None = None,
    returns_T: torch.Tensor | None = None,
    kl_coefficient: float = 0.0,
    kl_estimator: str = "k3",
    kl_corrected: bool = False,
    kl_cap: float = 0.0,
    entropy_coefficient: float = 0.0,
    drift_delta: float = 0.0,
    value_coefficient: float = 0.0,
    value_clip: float = 0.0,
    **params: float | str | bool,
) -> LossResult:
    """A policy loss and its company, as one sum over the same tokens and weights.

    - KL: + kl_coefficient * KL(new || reference); `kl_corrected` multiplies it by the ratio new / old, whose gradient
      is then that of the divergence although the old policy sampled (DeepSeek-V3.2, arXiv 2512.02556, section 3.1).
    - Entropy: only the sampled tokens' log-probabilities are at hand, not the distribution, so the bonus is the score
      function's estimate of the entropy's gradient: + entropy_coefficient * sg(ratio * logprob) * logprob. It is
      unbiased for tokens that the old policy sampled at temperature 1, and noisier than one over the whole vocabulary.
    - Drift (off-policy sequence mask, the same paper): a sequence with A < 0 whose mean of sampler - new exceeds
      `drift_delta` has no policy loss. It is judged at each pass anew. Its tokens stay in every denominator.
    - Values: + value_coefficient * the loss of the value head, see `value_loss`.

    Args:
        logprobs_T: Under the weights being trained, with gradient.
        old_logprobs_T: Under the policy that ratios are taken to.
        advantages_T: One per token.
        weights_T: Loss weight per token.
        policy: Name of the policy loss.
        reference_logprobs_T: Under the reference, for the KL term.
        sampler_logprobs_T: As the sampler reported them, for the drift mask.
        calls_T: Call of each token, if sequences are calls.
        rollouts_T: Rollout of each token, if sequences are rollouts.
        values_T: Of the value head, with gradient.
        old_values_T: Of the value head, when the update began.
        returns_T: What its values are to be.
        kl_coefficient: 0 is off.
        kl_estimator: See `kl_divergence`.
        kl_corrected: Whether the divergence is multiplied by the ratio.
        kl_cap: Largest k3; 0 is off.
        entropy_coefficient: 0 is off.
        drift_delta: 0 is off.
        value_coefficient: 0 is off.
        value_clip: How far a value may move in one update; 0 is as far as it likes.
        params: Of the policy loss.
    """
    sequences = {"calls_T": calls_T, "rollouts_T": rollouts_T} if policy in SEQUENCE_POLICIES else {}
    keep_T = torch.ones_like(weights_T)
    extra: dict[str, torch.Tensor] = {}
    if drift_delta > 0 and sampler_logprobs_T is not None:
        drift_T = segment_mean(sampler_logprobs_T - logprobs_T.detach(), segments(calls_T, rollouts_T))
        keep_T = ((advantages_T >= 0) | (drift_T <= drift_delta)).to(weights_T.dtype)
        extra |= {"drift/mean": drift_T, "drift/masked": 1.0 - keep_T}
    loss, metrics = POLICIES[policy](
        logprobs_T,
        old_logprobs_T=old_logprobs_T,
        advantages_T=advantages_T,
        weights_T=weights_T * keep_T,
        **sequences,
        **params,
    )
    ratio_T = log_ratios(logprobs_T, old_logprobs_T).exp()
    if kl_coefficient > 0 and reference_logprobs_T is not None:
        kl_T = kl_divergence(
            logprobs_T, reference_logprobs_T=reference_logprobs_T, estimator=kl_estimator, cap=kl_cap
        )
        kl_T = ratio_T * kl_T if kl_corrected else kl_T
        loss = loss + kl_coefficient * (weights_T * kl_T).sum()
        extra["kl_reference"] = kl_T.detach()
    if entropy_coefficient > 0:
        surprise_T = (ratio_T * logprobs_T).detach() * logprobs_T
        loss = loss + entropy_coefficient * (weights_T * surprise_T).sum()
    if value_coefficient > 0 and values_T is not None and old_values_T is not None and returns_T is not None:
        error_T, held_T = value_loss(
            values_T, old_values_T=old_values_T, returns_T=returns_T, clip=value_clip
        )
        loss = loss + value_coefficient * (weights_T * error_T).sum()
        extra |= {
            "critic/vf_loss": error_T.detach(),
            "critic/vf_clipfrac": held_T,
            "critic/vpred_mean": values_T.detach(),
        }
    return loss, metrics | extra
