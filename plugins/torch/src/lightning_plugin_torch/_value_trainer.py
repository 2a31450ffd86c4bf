"""A trainer with a value head beside the policy; every method runs on the worker's thread."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from agentlightning.engine import LossInput, LossSpec, OptimizerConfig
from agentlightning.errors import NumericalError
from agentlightning.types import TokenForest, TokenTree
from lightning_plugin_torch._layout import Batch, lay_out
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._optimizer import Optimizer
from lightning_plugin_torch._options import TorchOptions, ValueHeadOptions
from lightning_plugin_torch._parts import Part
from lightning_plugin_torch._scoring import score_states, states
from lightning_plugin_torch._state import read_value_head, write_value_head
from lightning_plugin_torch._trainer import Served, Trainer
from lightning_plugin_torch._value_head import value_head_of


class ValueTrainer(Trainer):
    """Trains a value head on the states of the policy.

    The head has an optimiser and a gradient norm of its own, so that one that does not reach into the model changes no
    number of the policy. A loss that asks for no values is computed as if there were no head.

    Args:
        model: The model that is sampled from.
        sampler: What samples from it.
        options: How to learn; in one process.
        head: How values are learned.
        directory: Where rejected batches are kept.
    """

    def __init__(
        self,
        model: LoadedModel,
        sampler: Served,
        *,
        options: TorchOptions,
        head: ValueHeadOptions,
        directory: Path,
    ) -> None:
        super().__init__(model, sampler, options=options, directory=directory)
        self._head = value_head_of(model, head)
        self._head_optimizer = Optimizer(self._head)
        self._with_values = False

    def forward_backward(self, forest: TokenForest, spec: LossSpec) -> dict[str, float]:
        """Adds gradients, those of the head too; see `TorchLearner.forward_backward`."""
        self._with_values = LossInput.VALUES in spec.inputs
        try:
            return super().forward_backward(forest, spec)
        except NumericalError:
            self._head_optimizer.clear()
            raise
        finally:
            self._with_values = False

    @torch.no_grad()
    def values(self, forest: TokenForest) -> list[list[float]]:
        """Value of the state before each response token; see `TorchValueLearner.values`."""
        self._begin("values", forest)
        found = [[0.0] * len(tree) for tree in forest.trees]
        for parts in self._batches([_sampled(tree) for tree in forest.trees], trained=True):
            values = iter(self._head(states(self._model, self._laid_out(parts))).tolist())
            for part in parts:
                for node in part.nodes_K.tolist():
                    found[part.index][node] = next(values)
        return found

    def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Applies and clears the gradients of both."""
        metrics = super().optim_step(config)
        rate = config.learning_rate if config.value_learning_rate is None else config.value_learning_rate
        own = self._head_optimizer.step(msgspec.structs.replace(config, learning_rate=rate))
        return metrics | {"critic/grad_norm": own["grad_norm"], "critic/lr": rate}

    def save_state(self, directory: Path) -> None:
        """Writes the head first: a state is complete when the policy's is."""
        weights = {name: weight.detach() for name, weight in self._head.named_parameters()}
        write_value_head(directory, weights=weights, optimizer=self._head_optimizer.tensors())
        super().save_state(directory)

    def load_state(self, directory: Path) -> None:
        """Puts both back; gradients are discarded."""
        weights, optimizer = read_value_head(directory)
        super().load_state(directory)
        self._head.load_state_dict(weights)
        self._head_optimizer.restore(optimizer)

    def _score(self, parts: Sequence[Part]) -> torch.Tensor:
        """Log-probability of each wanted node of some parts, `[K]`; with values `[K, 2]` if the loss asks for them."""
        if not self._with_values:
            return super()._score(parts)
        batch = self._laid_out(parts)
        hidden_K_D = states(self._model, batch)
        logprobs_K = score_states(self._model, hidden_K_D, batch.target_K)
        return torch.stack((logprobs_K, self._head(hidden_K_D)), dim=1)

    def _laid_out(self, parts: Sequence[Part]) -> Batch:
        return lay_out(parts, device=self._model.device, sparse=self._model.sparse)


def _sampled(tree: TokenTree) -> TokenTree:
    """The tree with every response token wanted."""
    weights = array("f", bytes(4 * len(tree)))
    for call in tree.calls:
        weights[call.start : call.stop] = array("f", [1.0]) * (call.stop - call.start)
    return replace(tree, weights=weights)
