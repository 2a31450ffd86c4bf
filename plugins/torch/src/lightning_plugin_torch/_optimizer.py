"""AdamW over what is trained, with float32 copies of weights that are kept in fewer bits, and of their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from agentlightning.engine import OptimizerConfig
from lightning_plugin_torch._ranks import laid_out, whole

STATES = ("step", "exp_avg", "exp_avg_sq")


class Optimizer:
    """AdamW whose settings come with each step."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._masters = {
            name: parameter if parameter.dtype == torch.float32 else parameter.detach().float()
            for name, parameter in self._parameters.items()
        }
        for name, master in self._masters.items():
            if master is not self._parameters[name]:
                parameter: Any = self._parameters[name]
                parameter.register_post_accumulate_grad_hook(partial(_hand_over, master))
        self._adam = torch.optim.AdamW(list(self._masters.values()), fused=True)

    def gradient_norm(self) -> torch.Tensor:
        """Global norm of the gradients; 0 if there are none."""
        return whole(self._norm())

    def clear(self) -> None:
        """Discards the gradients."""
        for parameter in (*self._parameters.values(), *self._masters.values()):
            parameter.grad = None

    def step(self, config: OptimizerConfig) -> dict[str, float]:
        """Scales the gradients down, applies and clears them."""
        norm = self._norm()
        if config.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self._masters.values(), config.max_grad_norm, norm)
        for group in self._adam.param_groups:
            group["lr"], group["weight_decay"] = config.learning_rate, config.weight_decay
            group["betas"], group["eps"] = (config.beta1, config.beta2), config.eps
        self._adam.step()
        self._from_masters()
        self.clear()
        return {"grad_norm": whole(norm).item(), "learning_rate": config.learning_rate}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its state by name, to be saved."""
        saved = {
            f"{key}.{name}": self._adam.state[master][key]
            for name, master in self._masters.items()
            if master in self._adam.state
            for key in STATES
        }
        for name, master in self._masters.items():
            if master is not self._parameters[name]:
                saved[f"master.{name}"] = master
        return saved

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor], *, weights: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`, and puts the weights back; gradients are discarded.

        Args:
            saved: What `tensors` said, of weights of this or another type.
            weights: The weights at that time; masters among what is saved have all their bits.
        """
        self.clear()
        self._adam.state.clear()
        for name, master in self._masters.items():
            master.copy_(laid_out(saved.get(f"master.{name}", weights[name]), like=master))
            if f"step.{name}" in saved:
                self._adam.state[master] = {  # copies: what is loaded may be a view of its file
                    key: laid_out(saved[f"{key}.{name}"], like=master).clone() for key in STATES
                }
        self._from_masters()

    def _norm(self) -> torch.Tensor:
        gradients = [master.grad for master in self._masters.values() if master.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())

    @torch.no_grad()
    def _from_masters(self) -> None:
        for name, master in self._masters.items():
            if master is not self._parameters[name]:
                self._parameters[name].copy_(master)


def _hand_over(master: torch.Tensor, parameter: torch.Tensor) -> None:
    """Adds a gradient to the copy's: micro-batches would vanish beside each other in few bits."""
    gradient = parameter.grad
    if gradient is not None:
        master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None
