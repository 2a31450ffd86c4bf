"""The weights that a run began with, for as long as something is computed with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


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
        trained = {name: p.data for name, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self.weights[name]
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = trained[name]

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Puts another copy in its place, of the same names."""
        for name, weight in self.weights.items():
            weight.copy_(saved[name])
