"""What a loss is told about the values of states."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from msgspec.structs import replace

from agentlightning.engine import LossInput, LossSpec
from agentlightning.errors import ConfigError
from agentlightning.types import TokenTree
from lightning_plugin_torch._parts import Part

OF_TREES = {
    LossInput.OLD_VALUES: ("old_values_T", "values"),
    LossInput.RETURNS: ("returns_T", "returns"),
}
"""Inputs that trees hold: keyword of the loss and column of the tree."""


class ValueColumns:
    """The inputs of a loss that have to do with values.

    Args:
        spec: The loss.
    """

    def __init__(self, spec: LossSpec) -> None:
        self._spec = spec
        self._wanted = LossInput.VALUES in spec.inputs
        self._of_trees = [OF_TREES[name] for name in OF_TREES if name in spec.inputs]

    @property
    def others(self) -> LossSpec:
        """The loss with the inputs that have nothing to do with values."""
        inputs = (name for name in self._spec.inputs if name not in OF_TREES and name != LossInput.VALUES)
        return replace(self._spec, inputs=tuple(inputs))

    def of(self, scores: torch.Tensor, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
        """The loss's keyword tensors, each `[T]`, for the wanted nodes of some parts.

        Args:
            scores: Log-probabilities and values, `[T, 2]`; `[T]` where there are no values.
            parts: Parts of trees.

        Raises:
            ConfigError: The learner has no value head, or the trees do not hold what the loss asks for.
        """
        found: dict[str, torch.Tensor] = {}
        if self._wanted:
            if scores.ndim == 1:
                raise ConfigError(
                    f"loss {self._spec.name!r} asks for values, and this learner has no value head; "
                    "set value_head = {} of engine 'torch'"
                )
            found["values_T"] = scores[:, 1]
        for keyword, column in self._of_trees:
            given = [self._column(part.tree, column)[part.nodes_K] for part in parts]
            found[keyword] = torch.from_numpy(np.concatenate(given)).to(scores.device)
        return found

    def _column(self, tree: TokenTree, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        column: array[float] = getattr(tree, name)
        if not column:
            raise ConfigError(
                f"loss {self._spec.name!r} asks for {name}, and tree {tree.group!r} has none; fill its column "
                f"{name!r} first: values come from the learner, returns from advantages and values"
            )
        return np.frombuffer(column, dtype=np.float32)
