"""What TRL computes on the batch; runs in an environment that has TRL.

The trainer's own method is called on a stand-in for the trainer: it is given log-probabilities instead of a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace
from unittest.mock import MagicMock

import batch
import torch
from trl import GRPOTrainer

Numbers = dict[str, list[float]]
DEFAULTS: dict[str, float | str | bool | None] = {
    "loss_type": "bnpo",
    "level": "token",
    "low": 0.2,
    "high": 0.28,
    "beta": 0.0,
    "delta": None,
    "opsm": None,
}


def numbers() -> tuple[dict[str, str], Numbers]:
    """Versions, and the numbers of each case."""
    found = {name: case() for name, case in CASES.items()}
    return {"trl": version("trl"), "torch": torch.__version__}, found


def tensors(*, spread: float) -> dict[str, torch.Tensor]:
    made = batch.rows(spread=spread)
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in vars(made).items()}


def loss(*, spread: float = 0.3, **settings: float | str | bool | None) -> Callable[[], list[float]]:
    def run() -> list[float]:
        data = tensors(spread=spread)
        new = data["new"].requires_grad_()
        chosen = DEFAULTS | settings
        accelerator = SimpleNamespace(
            num_processes=1,
            gather=lambda value: value,
            gather_for_metrics=lambda value: value,
            reduce=lambda value, **_: value,
        )
        trainer = MagicMock(
            beta=chosen["beta"],
            loss_type=chosen["loss_type"],
            importance_sampling_level=chosen["level"],
            epsilon_low=chosen["low"],
            epsilon_high=chosen["high"],
            off_policy_mask_threshold=chosen["opsm"],
            get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
            top_entropy_quantile=1.0,
            aux_loss_enabled=False,
            use_vllm=False,
            _entropy_bonus_enabled=False,
            max_completion_length=batch.WIDTH,
            current_gradient_accumulation_steps=1,
            accelerator=accelerator,
            model=SimpleNamespace(training=True),
            args=SimpleNamespace(
                delta=chosen["delta"],
                use_bias_correction_kl=bool(chosen.get("corrected")),
                sapo_temperature_pos=1.0,
                sapo_temperature_neg=1.05,
                steps_per_generation=1,
                gradient_accumulation_steps=1,
            ),
            _metrics=defaultdict(lambda: defaultdict(list)),
        )
        trainer._get_per_token_logps_and_entropies.return_value = (new, torch.zeros_like(new), None)
        ones = torch.ones(batch.ROWS, batch.WIDTH, dtype=torch.long)
        inputs = {
            "prompt_ids": ones[:, :1],
            "prompt_mask": ones[:, :1],
            "completion_ids": ones,
            "completion_mask": data["mask"],
            "advantages": data["advantages"],
            "old_per_token_logps": data["old"],
            "ref_per_token_logps": data["reference"],
            "sampling_per_token_logps": data["sampler"],
            "num_items_in_batch": data["mask"].sum(),
        }
        value = GRPOTrainer._compute_loss(trainer, None, inputs)
        (gradient,) = torch.autograd.grad(value, new)
        return [value.item(), (gradient * data["direction"]).sum().item()]

    return run


CASES = {
    "ppo_clip/token_mean": loss(loss_type="dapo"),
    "ppo_clip/rollout_mean": loss(loss_type="grpo"),
    "ppo_clip/sequence_sum_norm": loss(loss_type="dr_grpo"),
    "ppo_clip/large ratios": loss(spread=3.0),
    "ppo_clip/max_ratio": loss(spread=3.0, delta=4.0),
    "ppo_clip+kl": loss(beta=0.1),
    "ppo_clip+kl corrected": loss(beta=0.1, corrected=True),
    "ppo_clip+opsm": loss(opsm=0.02),
    "gspo/sequence": loss(loss_type="grpo", level="sequence", low=3e-2, high=4e-2),
    "cispo_cap": loss(loss_type="cispo", high=1.2),
    "sapo": loss(loss_type="sapo"),
}
