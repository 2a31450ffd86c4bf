"""Finds the loss that a `LossSpec` names, and calls it."""

from __future__ import annotations

import importlib
from typing import Protocol

import torch

from agentlightning.engine import LossSpec
from agentlightning.errors import TargetError


class Loss(Protocol):
    """A loss over trained nodes; its signature is described in `docs/explanation/learning.md`."""

    def __call__(
        self, logprobs_T: torch.Tensor, **given: torch.Tensor | float | str | bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the weighted sum over the nodes, and metrics with one value per node.

        Args:
            logprobs_T: Log-probabilities, with gradient.
            **given: `old_logprobs_T`, `advantages_T`, `weights_T`, the spec's `inputs`, and its `params`.
        """
        ...


def load_loss(spec: LossSpec) -> Loss:
    """Imports the function.

    Raises:
        TargetError: The import string leads nowhere.
    """
    module, _, name = spec.target.partition(":")
    try:
        loss: Loss = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TargetError(
            f"loss {spec.name!r} has target {spec.target!r}, which cannot be imported ({error}); "
            "write it as `module:function`"
        ) from error
    return loss
