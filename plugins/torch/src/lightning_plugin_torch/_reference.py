"""The weights that a run began with, for as long as something is computed with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.distributed.tensor import DTensor

from lightning_plugin_torch._ranks import laid_out


class Reference:
    """A frozen copy of all that is trained: small with adapters, as large as the model without.

    Attributes:
        weights: The copy, by name.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().clone() for name, p in self._parameters.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model computes with the copy inside the block; nothing may be trained or sampled there."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Puts another copy in its place, of the same names."""
        for name, weight in self.weights.items():
            weight.copy_(laid_out(saved[name], like=weight))

    @torch.no_grad()
    def _exchange(self) -> None:
        """Weights and copy change places."""
        for name, parameter in self._parameters.items():
            if isinstance(parameter, DTensor):  # FSDP gathers from the memory that it knows
                weight = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(weight)
            else:
                parameter.data, self.weights[name] = self.weights[name], parameter.data
