"""The loss of a value head."""

from __future__ import annotations

import torch


def value_loss(
    values_T: torch.Tensor, *, old_values_T: torch.Tensor, returns_T: torch.Tensor, clip: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error of each value, clipped as PPO2 does, to be minimised.

    max((V - R)², (clip(V, V_old - clip, V_old + clip) - R)²) / 2: a value that has moved further than `clip` towards
    its return has no gradient (OpenAI Baselines, ppo2; Huang et al., "The 37 implementation details of PPO", 2022,
    detail 9).

    Args:
        values_T: Under the weights being trained, with gradient.
        old_values_T: When the update began.
        returns_T: What they are to be.
        clip: How far a value may move in one update; 0 is as far as it likes.

    Returns:
        The loss of each token, and 1 where the clip holds it back, else 0.
    """
    free_T = (values_T - returns_T).square()
    if clip <= 0:
        return 0.5 * free_T, torch.zeros_like(free_T)
    near_T = torch.minimum(torch.maximum(values_T, old_values_T - clip), old_values_T + clip)
    held_T = (near_T - returns_T).square()
    return 0.5 * torch.maximum(free_T, held_T), (held_T > free_T).to(free_T.dtype)
