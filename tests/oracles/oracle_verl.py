"""What verl computes on the batch; runs in an environment that has verl."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import batch
import numpy as np
import torch

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from verl.trainer.ppo import core_algos as algos
from verl.trainer.ppo.rollout_corr_helper import (
    compute_rollout_correction_and_rejection_mask as correct,
)
from verl.workers.config import ActorConfig

Numbers = dict[str, list[float]]


def numbers() -> tuple[dict[str, str], Numbers]:
    """Versions, and the numbers of each case."""
    found: Numbers = {}
    for name, case in {**LOSSES, **VALUES, **ADVANTAGES, **DIVERGENCES, **CORRECTIONS}.items():
        found[name] = case()
    return {"verl": version("verl"), "torch": torch.__version__}, found


def tensors(*, spread: float = 0.3) -> dict[str, torch.Tensor]:
    made = batch.rows(spread=spread)
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in vars(made).items()}


def learned(value: torch.Tensor, new: torch.Tensor, direction: torch.Tensor) -> list[float]:
    """The loss, and the product of its gradient with a direction."""
    (gradient,) = torch.autograd.grad(value, new)
    return [value.item(), (gradient * direction).sum().item()]


def loss(
    policy: str,
    aggregation: str = "token-mean",
    *,
    spread: float = 0.3,
    low: float = 0.2,
    high: float = 0.28,
    **more: float,
) -> Callable[[], list[float]]:
    def run() -> list[float]:
        data = tensors(spread=spread)
        new = data["new"].requires_grad_()
        config = ActorConfig(
            strategy="fsdp",
            rollout_n=1,
            use_dynamic_bsz=True,
            clip_ratio=0.2,
            clip_ratio_low=low,
            clip_ratio_high=high,
            **({"clip_ratio_c": 1e9} | more),
        )
        value, _ = algos.get_policy_loss_fn(policy)(
            old_log_prob=data["old"],
            log_prob=new,
            advantages=data["advantages"][:, None].expand_as(new),
            response_mask=data["mask"],
            loss_agg_mode=aggregation,
            config=config,
        )
        return learned(value, new, data["direction"])

    return run


LOSSES = {
    "ppo_clip/token_mean": loss("vanilla"),
    "ppo_clip/rollout_mean": loss("vanilla", "seq-mean-token-mean"),
    "ppo_clip/sequence_sum_norm": loss("vanilla", "seq-mean-token-sum-norm"),
    "ppo_clip/large ratios": loss("vanilla", spread=3.0),
    "ppo_clip/dual_clip": loss("vanilla", spread=3.0, clip_ratio_c=3.0),
    "gspo/token": loss("gspo", "seq-mean-token-mean", low=3e-2, high=4e-2),
    "gmpo": loss("geo_mean", low=0.4, high=0.4),
    "cispo": loss("cispo"),
    "sapo": loss("sapo"),
    "dppo_tv": loss("dppo_tv", low=0.1, high=0.1, clip_ratio_c=20.0),
    "dppo_kl": loss("dppo_kl", low=0.01, high=0.01, clip_ratio_c=20.0),
}


def value(clip: float, aggregation: str = "token-mean") -> Callable[[], list[float]]:
    def run() -> list[float]:
        data = tensors()
        predicted = data["predicted"].requires_grad_()
        total, _ = algos.compute_value_loss(
            vpreds=predicted,
            returns=data["targets"],
            values=data["values"],
            response_mask=data["mask"],
            cliprange_value=clip,
            loss_agg_mode=aggregation,
        )
        return learned(total, predicted, data["direction"])

    return run


VALUES = {
    "value_loss": value(0.2),
    "value_loss/rollout_mean": value(0.2, "seq-mean-token-mean"),
    "value_loss/unclipped": value(1e9),
}


def advantage(
    function: Callable[..., tuple[torch.Tensor, torch.Tensor]], *, column: int = 0, **more: object
) -> Callable[[], list[float]]:
    def run() -> list[float]:
        data = tensors()
        rewards = torch.zeros_like(data["mask"])
        for row, mask in enumerate(data["mask"]):
            rewards[row, int(mask.nonzero()[-1])] = data["rewards"][row]
        settings = {name: value(data) if callable(value) else value for name, value in more.items()}
        found = function(token_level_rewards=rewards, response_mask=data["mask"], **settings)[column]
        return (found * data["mask"]).flatten().tolist()

    return run


INDEX = np.arange(batch.ROWS) // batch.GROUP


@dataclass(frozen=True)
class Discount:
    """All that the estimator reads of its configuration."""

    gamma: float = 0.9


ADVANTAGES = {
    "grpo": advantage(algos.compute_grpo_outcome_advantage, index=INDEX),
    "dr_grpo": advantage(algos.compute_grpo_outcome_advantage, index=INDEX, norm_adv_by_std_in_grpo=False),
    "rloo": advantage(algos.compute_rloo_outcome_advantage, index=INDEX),
    "opo": advantage(algos.compute_opo_outcome_advantage, index=INDEX),
    "reinforce_pp": advantage(algos.compute_reinforce_plus_plus_outcome_advantage, config=Discount()),
    "reinforce_pp_baseline": advantage(
        algos.compute_reinforce_plus_plus_baseline_outcome_advantage, index=INDEX
    ),
    **{
        name: advantage(
            algos.compute_gae_advantage_return,
            column=column,
            values=lambda data: data["values"],
            gamma=0.9,
            lam=0.8,
        )
        for name, column in (("gae", 0), ("token_gae", 0), ("token_gae/returns", 1))
    },
}


def gdpo() -> list[float]:
    """Two dimensions of the outcome, the second with half the weight."""
    data = tensors()
    mask = data["mask"]
    ends = torch.tensor([int(row.nonzero()[-1]) for row in mask])
    attention = (torch.arange(batch.WIDTH + 1) <= ends[:, None] + 1).long()
    found, _ = algos.compute_gdpo_outcome_advantage(
        token_level_rewards=torch.zeros_like(mask),
        response_mask=mask,
        index=INDEX,
        config={"gdpo_reward_keys": ["first", "second"], "gdpo_reward_weights": [1.0, 0.5]},
        non_tensor_batch={"first": data["rewards"].numpy(), "second": data["second"].numpy()},
        batch={"prompts": torch.zeros(batch.ROWS, 1), "attention_mask": attention},
    )
    return (found * mask).flatten().tolist()


ADVANTAGES["gdpo"] = gdpo


def divergence(estimator: str) -> Callable[[], list[float]]:
    def run() -> list[float]:
        data = tensors()
        new = data["new"].requires_grad_()
        mean = (algos.kl_penalty(new, data["reference"], estimator) * data["mask"]).sum() / data["mask"].sum()
        return learned(mean, new, data["direction"])

    return run


DIVERGENCES = {f"kl/{name}": divergence(name) for name in ("k1", "k2", "k3", "k1+", "k3+")}


def correction(**settings: object) -> Callable[[], list[float]]:
    def run() -> list[float]:
        data = tensors(spread=1.0)
        weights, mask, _ = correct(data["old"], data["sampler"], data["mask"], **settings)
        factors = mask if weights is None else weights.batch["rollout_is_weights"] * mask
        return (factors * data["mask"]).flatten().tolist()

    return run


CORRECTIONS = {
    "tis/token": correction(rollout_is="token", rollout_is_threshold=1.2),
    "tis/rollout": correction(rollout_is="sequence", rollout_is_threshold=1.2),
    "icepop": correction(rollout_is="token", rollout_is_threshold="0.5_1.5"),
    "mis/rollout": correction(rollout_is="sequence", rollout_is_threshold="0.2_3.0"),
    "geometric/rollout": correction(
        rollout_is=None,
        rollout_is_threshold=None,
        rollout_rs="seq_mean_k1",
        rollout_rs_threshold="0.9_1.1111111111111112",
    ),
}
