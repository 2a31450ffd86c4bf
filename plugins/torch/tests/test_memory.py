"""What exists at a time, and in how many bits."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentlightning.engine import LossSpec
from agentlightning.types import TokenForest
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._trainer import Trainer

Planter = Callable[..., TokenForest]

RATIO = LossSpec(name="ratio", target="losses_of_tests:ratio")
CROSS_ENTROPY = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor with one axis of some width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and self._width in leaf.shape:
                self.size = max(self.size, leaf.numel() // self._width)
        return out


def trainer(directory: Path, **options: object) -> Trainer:
    chosen = TorchOptions(model=str(directory), **options)
    model = load(directory, chosen)
    return Trainer(model, Sampler(model, sizes=(1,), max_active=1), options=chosen, directory=directory)


@pytest.mark.parametrize("trained", [True, False], ids=["forward_backward", "logprobs"])
def test_logits_of_all_tokens_never_exist_at_a_time(
    model_directory: Path, plant: Planter, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    forest = plant([(list(range(7, 20)), list(range(20, 120)))], [([9], list(range(30, 90)))])
    learner = trainer(model_directory)
    learner._model.module.get_input_embeddings().requires_grad_(False)  # gradients of weights are as wide
    learner.logprobs(plant([([7], [8])]))  # what is tried out once is over
    vocabulary = learner._model.vocabulary
    sizes = {}
    for rows in (8, 1000):
        monkeypatch.setattr("lightning_plugin_torch._scoring.LOGITS_AT_ONCE", rows * vocabulary)
        with Largest(vocabulary) as largest:
            if trained:
                learner.forward_backward(forest, RATIO)
            else:
                learner.logprobs(forest)
        sizes[rows] = largest.size
    width = learner._model.module.config.hidden_size
    assert sizes[8] <= max(
        8, width
    )  # the output layer itself is as wide, and has as many rows as a hidden state
    assert sizes[1000] >= 160


def test_checkpointed_layers_keep_less(model_directory: Path, plant: Planter) -> None:
    forest = plant([(list(range(7, 20)), list(range(20, 120)))])
    kept = {}
    for checkpointing in (False, True):
        learner = trainer(model_directory, checkpointing=checkpointing)
        batches = learner._batches(forest.trees, trained=True)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            learner._score(batches[0])
        kept[checkpointing] = sum(saved)
    assert kept[True] < 0.5 * kept[False]


def test_gradients_of_many_small_batches_do_not_vanish_in_few_bits(
    model_directory: Path, plant: Planter
) -> None:
    """One large gradient, then many that bfloat16 would lose beside it: the sum is that of float32."""
    trees = [[(list(range(7, 30)), list(range(30, 40)))]] * 65
    forest = plant(*trees)
    weights = [1.0, *[1 / 512] * 64]
    forest = TokenForest(
        trees=tuple(
            replace(tree, weights=array("f", [weight if node >= 23 else 0.0 for node in range(len(tree))]))
            for tree, weight in zip(forest.trees, weights, strict=True)
        )
    )
    many = trainer(model_directory, dtype="bfloat16", micro_batch_tokens=1)
    first = trainer(model_directory, dtype="bfloat16", micro_batch_tokens=1)
    many.forward_backward(forest, CROSS_ENTROPY)
    first.forward_backward(TokenForest(trees=forest.trees[:1]), CROSS_ENTROPY)
    ratio = many._optimizer.gradient_norm() / first._optimizer.gradient_norm()
    assert ratio.item() == pytest.approx(1 + 64 / 512, rel=2e-3)
