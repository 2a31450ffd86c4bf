"""What a loss is told about each trained node, beside its log-probability."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from agentlightning.engine import LossInput, LossSpec
from agentlightning.errors import ConfigError
from agentlightning.types import TokenTree
from lightning_plugin_torch._parts import Part
from lightning_plugin_torch._runs import Ints

Number = TypeVar("Number", np.int64, np.float32)

UNITS = (LossInput.CALLS, LossInput.ROLLOUTS)
"""Inputs that bind tokens together: all tokens of one come to the loss at once."""

KEYWORD = {
    LossInput.CALLS: "calls_T",
    LossInput.ROLLOUTS: "rollouts_T",
    LossInput.REFERENCE: "reference_logprobs_T",
    LossInput.SAMPLER: "sampler_logprobs_T",
    LossInput.VERSIONS: "versions_T",
}


class Columns:
    """Values by node of a forest's trees, as a loss takes them.

    Args:
        trees: The trees, as they are trained.
        spec: The loss.

    Raises:
        ConfigError: The loss asks for what this learner does not know, or for what the trees do not hold.
    """

    def __init__(self, trees: Sequence[TokenTree], spec: LossSpec) -> None:
        self._trees = trees
        self._spec = spec
        self._inputs = [_known(name, spec) for name in spec.inputs]
        self._offsets = np.cumsum([0, *(len(tree.calls) for tree in trees)]).tolist()
        names = dict.fromkeys(call.rollout_id for tree in trees for call in tree.calls)
        self._rollouts = {name: index for index, name in enumerate(names)}

    def whole(self, batches: Iterable[Sequence[Part]]) -> bool:
        """Whether each batch has all tokens of each call or rollout of its tokens, as far as the loss wants that."""
        for name in self._inputs:
            if name in UNITS:
                found = [np.unique(self._column(name, batch)) for batch in batches]
                joined = np.concatenate(found) if found else np.zeros(0)
                if len(np.unique(joined)) < len(joined):
                    return False
        return True

    def of(self, parts: Sequence[Part], *, device: torch.device) -> dict[str, torch.Tensor]:
        """The loss's keyword tensors, each `[T]`, for the wanted nodes of some parts."""
        columns = {
            "old_logprobs_T": _floats(parts, lambda tree: tree.old_logprobs or tree.logprobs),
            "advantages_T": _floats(parts, lambda tree: tree.advantages),
            "weights_T": _floats(parts, lambda tree: tree.weights),
            **{KEYWORD[name]: self._column(name, parts) for name in self._inputs},
        }
        return {name: torch.from_numpy(values).to(device) for name, values in columns.items()}

    def _column(self, name: LossInput, parts: Sequence[Part]) -> Ints | npt.NDArray[np.float32]:
        if name is LossInput.SAMPLER:
            return _floats(parts, lambda tree: tree.logprobs)
        if name is LossInput.REFERENCE:
            return _floats(parts, self._reference)
        if name is LossInput.VERSIONS:
            return _joined(
                np.frombuffer(part.tree.versions, dtype=np.int32)[part.nodes_K].astype(np.int64)
                for part in parts
            )
        return _joined(self._units(name, part.index)[part.nodes_K] for part in parts)

    def _reference(self, tree: TokenTree) -> array[float]:
        if not tree.reference_logprobs:
            raise ConfigError(
                f"loss {self._spec.name!r} asks for log-probabilities of a reference, and tree {tree.group!r} has "
                "none; let a learner that keeps a reference compute them first, as `reference_logprobs` of the tree"
            )
        return tree.reference_logprobs

    def _units(self, name: LossInput, index: int) -> Ints:
        """Call or rollout of each node of a tree."""
        tree = self._trees[index]
        unit_N = np.full(len(tree), -1)
        for place, call in enumerate(tree.calls):
            of_call = self._offsets[index] + place
            unit_N[call.start : call.stop] = (
                of_call if name is LossInput.CALLS else self._rollouts[call.rollout_id]
            )
        return unit_N


def _known(name: str, spec: LossSpec) -> LossInput:
    try:
        return LossInput(name)
    except ValueError as error:
        raise ConfigError(
            f"loss {spec.name!r} asks for the input {name!r}, which engine 'torch' does not know; "
            f"it gives {', '.join(LossInput)}"
        ) from error


def _floats(parts: Sequence[Part], column: Callable[[TokenTree], array[float]]) -> npt.NDArray[np.float32]:
    return _joined(np.frombuffer(column(part.tree), dtype=np.float32)[part.nodes_K] for part in parts)


def _joined(values: Iterable[npt.NDArray[Number]]) -> npt.NDArray[Number]:
    return np.concatenate(list(values))
