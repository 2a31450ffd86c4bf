"""What Liger computes on the batch; runs in an environment that has Liger."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import batch
import torch
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

Numbers = dict[str, list[float]]


def numbers() -> tuple[dict[str, str], Numbers]:
    """Versions, and the numbers of each case."""
    found = {name: case() for name, case in CASES.items()}
    return {"liger-kernel": version("liger-kernel"), "torch": torch.__version__}, found


def loss(*, spread: float = 0.3, **settings: float | str | bool) -> Callable[[], list[float]]:
    def run() -> list[float]:
        made = batch.rows(spread=spread)
        data = {name: torch.tensor(value, dtype=torch.float64) for name, value in vars(made).items()}
        new = data["new"].requires_grad_()
        value, _ = LigerFusedLinearGRPOFunction.ppo_loss_fn(
            new,
            data["mask"],
            data["advantages"],
            data["mask"],
            ref_per_token_logps=data["reference"],
            old_per_token_logps=data["old"],
            **({"beta": 0.0, "epsilon_high": 0.28} | settings),
        )
        (gradient,) = torch.autograd.grad(value, new)
        return [value.item(), (gradient * data["direction"]).sum().item()]

    return run


CASES = {
    "ppo_clip/token_mean": loss(loss_type="bnpo"),
    "ppo_clip/rollout_mean": loss(loss_type="grpo"),
    "ppo_clip/sequence_sum_norm": loss(loss_type="dr_grpo", max_completion_length=batch.WIDTH),
    "ppo_clip/large ratios": loss(loss_type="bnpo", spread=3.0),
    "ppo_clip/max_ratio": loss(loss_type="bnpo", spread=3.0, delta=4.0),
    "ppo_clip+kl": loss(loss_type="bnpo", beta=0.1),
    "ppo_clip+kl corrected": loss(loss_type="bnpo", beta=0.1, use_bias_correction_kl=True),
    "gspo/sequence": loss(
        loss_type="grpo", importance_sampling_level="sequence", epsilon_low=3e-2, epsilon_high=4e-2
    ),
    "cispo_cap": loss(loss_type="cispo", epsilon_high=1.2),
    "sapo": loss(loss_type="sapo"),
}
