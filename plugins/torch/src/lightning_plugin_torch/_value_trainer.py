"""A trainer with a value head beside the policy; every method runs on the worker's thread."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from agentlightning.engine import LossInput, LossSpec, OptimizerConfig
from agentlightning.errors import NumericalError
from agentlightning.types import TokenForest, TokenTree
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._optimizer import Optimizer
from lightning_plugin_torch._options import TorchOptions, ValueHeadOptions, decode_value_head
from lightning_plugin_torch._ranks import Ranks, whole
from lightning_plugin_torch._scoring import Asked
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
        options: How to learn.
        head: How values are learned.
        directory: Where rejected batches are kept.
        ranks: The processes that share the work.
        checked: Whether the architecture is known to compute forests.
    """

    def __init__(
        self,
        model: LoadedModel,
        sampler: Served,
        *,
        options: TorchOptions,
        head: ValueHeadOptions,
        directory: Path,
        ranks: Ranks | None = None,
        checked: bool = False,
    ) -> None:
        self._head = value_head_of(model, head)
        super().__init__(
            model,
            sampler,
            options=options,
            directory=directory,
            ranks=ranks,
            checked=checked,
            head=self._head,
        )
        self._head_optimizer = Optimizer(self._head)

    def forward_backward(self, forest: TokenForest, spec: LossSpec) -> dict[str, float]:
        """Adds gradients, those of the head too; see `TorchLearner.forward_backward`."""
        try:
            with self._asking(Asked.BOTH if LossInput.VALUES in spec.inputs else Asked.LOGPROBS):
                return super().forward_backward(forest, spec)
        except NumericalError:
            self._head_optimizer.clear()
            raise

    @torch.no_grad()
    def values(self, forest: TokenForest) -> list[list[float]]:
        """Value of the state before each response token; see `TorchValueLearner.values`."""
        self._begin("values", forest)
        with self._asking(Asked.VALUES):
            return self._by_node(
                forest, self._batches([_sampled(tree) for tree in forest.trees], trained=True)
            )

    def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Applies and clears the gradients of both."""
        metrics = super().optim_step(config)
        rate = config.learning_rate if config.value_learning_rate is None else config.value_learning_rate
        own = self._head_optimizer.step(msgspec.structs.replace(config, learning_rate=rate))
        return metrics | {"critic/grad_norm": own["grad_norm"], "critic/lr": rate}

    def _gathered(self, directory: Path) -> Callable[[], None]:
        """The head is written first: a state is complete when the policy's is."""
        weights = {name: whole(weight.detach()) for name, weight in self._head.named_parameters()}
        optimizer = {name: whole(tensor) for name, tensor in self._head_optimizer.tensors().items()}
        write_policy = super()._gathered(directory)

        def write() -> None:
            write_value_head(directory, weights=weights, optimizer=optimizer)
            write_policy()

        return write

    def _read(self, directory: Path) -> None:
        weights, optimizer = read_value_head(directory)
        super()._read(directory)
        self._head_optimizer.restore(optimizer, weights=weights)

    def _gradient_norm(self) -> torch.Tensor:
        return torch.hypot(super()._gradient_norm(), self._head_optimizer.gradient_norm())

    @contextmanager
    def _asking(self, asked: Asked) -> Iterator[None]:
        before, self._asked = self._asked, asked
        try:
            yield
        finally:
            self._asked = before


def create_trainer(
    model: LoadedModel,
    sampler: Served,
    *,
    options: TorchOptions,
    directory: Path,
    ranks: Ranks,
    checked: bool = False,
) -> Trainer:
    """The trainer that the options ask for; see `Trainer`."""
    if options.value_head is None:
        return Trainer(model, sampler, options=options, directory=directory, ranks=ranks, checked=checked)
    head = decode_value_head(options.value_head)
    return ValueTrainer(
        model, sampler, options=options, head=head, directory=directory, ranks=ranks, checked=checked
    )


def _sampled(tree: TokenTree) -> TokenTree:
    """The tree with every response token wanted."""
    weights = array("f", bytes(4 * len(tree)))
    for call in tree.calls:
        weights[call.start : call.stop] = array("f", [1.0]) * (call.stop - call.start)
    return replace(tree, weights=weights)
