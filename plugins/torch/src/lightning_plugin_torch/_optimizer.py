"""AdamW over what is trained, with float32 copies of weights that are kept in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from agentlightning.engine import OptimizerConfig

STATES = ("step", "exp_avg", "exp_avg_sq")


class Optimizer:
    """AdamW whose settings come with each step."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._masters = {
            name: parameter if parameter.dtype == torch.float32 else parameter.detach().float()
            for name, parameter in self._parameters.items()
        }
        self._adam = torch.optim.AdamW(list(self._masters.values()), fused=True)

    def gradient_norm(self) -> torch.Tensor:
        """Global norm of the gradients; 0 if there are none."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())

    def clear(self) -> None:
        """Discards the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def step(self, config: OptimizerConfig) -> dict[str, float]:
        """Scales the gradients down, applies and clears them."""
        norm = self.gradient_norm()
        if config.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), config.max_grad_norm, norm)
        for group in self._adam.param_groups:
            group["lr"], group["weight_decay"] = config.learning_rate, config.weight_decay
            group["betas"], group["eps"] = (config.beta1, config.beta2), config.eps
        self._to_masters()
        self._adam.step()
        self._from_masters()
        self.clear()
        return {"grad_norm": norm.item(), "learning_rate": config.learning_rate}

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
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `tensors`; gradients are discarded."""
        self.clear()
        self._adam.state.clear()
        for name, master in self._masters.items():
            if master is not self._parameters[name]:
                master.copy_(saved[f"master.{name}"])
            if f"step.{name}" in saved:
                self._adam.state[master] = {key: saved[f"{key}.{name}"].to(master.device) for key in STATES}

    def _to_masters(self) -> None:
        for name, master in self._masters.items():
            gradient = self._parameters[name].grad
            if master is not self._parameters[name]:
                master.grad = None if gradient is None else gradient.float()

    @torch.no_grad()
    def _from_masters(self) -> None:
        for name, master in self._masters.items():
            if master is not self._parameters[name]:
                self._parameters[name].copy_(master)
                master.grad = None
