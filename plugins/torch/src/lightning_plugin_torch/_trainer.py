"""Forward, backward and optimiser steps over token forests; every method runs on the worker's thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from agentlightning.engine import LossSpec, OptimizerConfig
from agentlightning.errors import ConfigError, EngineError, NumericalError
from agentlightning.types import TokenForest, TokenTree
from agentlightning.versions import Versions
from lightning_plugin_torch._layout import lay_out
from lightning_plugin_torch._lora import write_adapter
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._objective import Objective
from lightning_plugin_torch._optimizer import Optimizer
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._parts import Part, pack, parts_of
from lightning_plugin_torch._probe import check_forest
from lightning_plugin_torch._ranks import STOP, Alone, Ranks, whole
from lightning_plugin_torch._reference import Reference
from lightning_plugin_torch._rejected import keep_batch
from lightning_plugin_torch._rows import rows_of
from lightning_plugin_torch._scoring import Asked
from lightning_plugin_torch._state import read_reference, read_state, write_state
from lightning_plugin_torch._value_head import ValueHead

Batches = Sequence[Sequence[Part]]


class Served(Protocol):
    """What samples from the weights that are trained.

    Attributes:
        version: Policy version of the weights.
    """

    version: int

    def weights_changed(self) -> None:
        """Forgets what was computed with other weights."""
        ...


class Trainer:
    """Trains the weights that the sampler uses; between its calls nothing is sampled.

    Args:
        model: The model that is sampled from.
        sampler: What samples from it.
        options: How to learn.
        directory: Where rejected batches are kept, and the newest policy version.
        ranks: The processes that share the work; every one of them makes the same calls.
        checked: Whether the architecture is known to compute forests.
        head: What says what states are worth, if anything does.
    """

    def __init__(
        self,
        model: LoadedModel,
        sampler: Served,
        *,
        options: TorchOptions,
        directory: Path,
        ranks: Ranks | None = None,
        checked: bool = False,
        head: ValueHead | None = None,
    ) -> None:
        self._model = model
        self._sampler = sampler
        self._limit = options.micro_batch_tokens
        self._rows = options.rows
        self._directory = directory
        self._ranks = ranks or Alone()
        self._module, self._scorer = self._ranks.place(model, head)
        self._optimizer = Optimizer(self._module)
        self._reference = Reference(self._module) if options.keeps_reference else None
        self._checked = checked
        self._asked = Asked.LOGPROBS
        self._versions = Versions(directory if self._ranks.leads else None)
        sampler.version = self._versions.following()

    @property
    def version(self) -> int:
        """Policy version of the weights: one more with each optimiser step, and with each state that is loaded."""
        return self._sampler.version

    def forward_backward(self, forest: TokenForest, spec: LossSpec) -> dict[str, float]:
        """Adds gradients; see `TorchLearner.forward_backward`.

        A loss that looks at whole calls or rollouts, some of which are split over micro-batches, is computed once for
        all tokens, from log-probabilities without gradient; what it says of each token is then sent back through the
        micro-batches. The gradient is the same as if all had been one micro-batch, for the price of a forward pass.
        """
        self._begin("forward_backward", forest, spec)
        trees = rows_of(forest.trees) if self._rows else forest.trees
        objective = Objective(trees, spec, device=self._model.device)
        batches = self._batches(trees, trained=True)
        if objective.separable(batches):
            for parts, factor in self._ranks.share(batches):
                logprobs_K = self._score(parts)
                gradient_K = objective.gradient(logprobs_K, parts, counted=factor > 0)
                torch.autograd.backward(logprobs_K, factor * gradient_K)
            objective.sums = self._ranks.total(objective.sums)
        else:
            gradients = self._gradients(objective, batches)
            for (parts, gradient_K), factor in self._ranks.share([*zip(batches, gradients, strict=True)]):
                torch.autograd.backward(self._score(parts), factor * gradient_K)
        self._check(forest, spec, loss=objective.sums["loss"])
        return objective.means()

    @torch.no_grad()
    def logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities of every node; see `TorchLearner.logprobs`."""
        self._begin("logprobs", forest)
        return self._by_node(forest, self._batches(forest.trees, trained=False))

    def reference_logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Likewise, under the weights that the run began with."""
        if self._reference is None:
            raise ConfigError(
                "engine 'torch' trains whole weights and keeps no copy of those it began with; set reference = true"
            )
        self._begin("reference_logprobs", forest)
        with self._reference.in_place():
            return self._by_node(forest, self._batches(forest.trees, trained=False))

    def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Applies and clears the gradients; the sampler uses the new weights from its next token on."""
        version = self._versions.following()
        self._begin("optim_step", config)
        metrics = self._optimizer.step(config)
        self._ranks.serve(self._model, self._weights())
        self._sampler.version = version
        self._sampler.weights_changed()
        return metrics

    def publish(self) -> int:
        """The version that is sampled from; prompts are prefilled anew."""
        self._sampler.weights_changed()
        return self._sampler.version

    def save_state(self, directory: Path) -> None:
        """Writes weights, optimiser, version, and the reference if there is one."""
        self._begin("save_state", directory)
        write = self._gathered(directory)
        if self._ranks.leads:
            write()

    def load_state(self, directory: Path) -> None:
        """Puts them back under a version of their own; gradients are discarded."""
        self._begin("load_state", directory)
        self._read(directory)

    def close(self) -> None:
        """Lets the other processes go."""
        self._ranks.announce(STOP)

    def save_model(self, directory: Path) -> None:
        """Writes a Hugging Face model directory."""
        self._model.save(directory)

    def save_adapter(self, directory: Path) -> None:
        """Writes the adapters as PEFT does."""
        write_adapter(self._model.module, directory)

    def _gathered(self, directory: Path) -> Callable[[], None]:
        """Gathers what is saved, all processes together; returns what writes it."""
        weights = {name: whole(weight) for name, weight in self._weights().items()}
        optimizer = {name: whole(tensor) for name, tensor in self._optimizer.tensors().items()}
        reference = None
        if self._reference:
            reference = {name: whole(weight) for name, weight in self._reference.weights.items()}
        return partial(
            write_state,
            directory,
            weights=weights,
            optimizer=optimizer,
            reference=reference,
            state={"version": self._sampler.version},
        )

    def _read(self, directory: Path) -> None:
        saved = read_state(directory)
        wanted = self._weights()
        if saved.weights.keys() != wanted.keys():
            raise EngineError(
                f"checkpoint {str(directory)!r} holds {_kind(saved.weights)}, but this run trains {_kind(wanted)}; "
                "use the model and the lora options that it was saved with"
            )
        if self._reference:
            self._reference.restore(read_reference(directory))
        version = self._versions.following(least=saved.version)
        self._optimizer.restore(saved.optimizer, weights=saved.weights)
        self._ranks.serve(self._model, wanted)
        self._sampler.version = version
        self._sampler.weights_changed()

    def _weights(self) -> dict[str, torch.Tensor]:
        """What is trained."""
        return {name: p.detach() for name, p in self._module.named_parameters() if p.requires_grad}

    def _begin(self, job: str, *arguments: object) -> None:
        """Lets the other processes do the same, once it is known that they can."""
        if not self._checked:
            check_forest(self._model)
            self._checked = True
        self._ranks.announce(job, *arguments)

    def _batches(self, trees: Sequence[TokenTree], *, trained: bool) -> Batches:
        return pack(parts_of(trees, trained=trained, limit=self._limit), limit=self._limit)

    def _score(self, parts: Sequence[Part]) -> torch.Tensor:
        """What is asked about each wanted node of some parts: log-probabilities `[K]`, unless a head is asked too."""
        batch = lay_out(parts, device=self._model.device, sparse=self._model.sparse)
        return self._scorer(batch, self._asked)

    def _by_node(self, forest: TokenForest, batches: Batches) -> list[list[float]]:
        """What is asked about the wanted nodes of all micro-batches, by tree and node; 0 for the others."""
        found = [[0.0] * len(tree) for tree in forest.trees]
        scores = iter(self._scored(batches)[0].tolist() if batches else ())
        for part in (part for parts in batches for part in parts):
            for node in part.nodes_K.tolist():
                found[part.index][node] = next(scores)
        return found

    @torch.no_grad()
    def _scored(self, batches: Batches) -> tuple[torch.Tensor, list[int]]:
        """What is asked about the wanted nodes of all micro-batches, and how many each has."""
        sizes = [sum(len(part.nodes_K) for part in parts) for parts in batches]
        own = [self._score(parts) for parts, _ in self._ranks.share(batches)]
        return self._ranks.joined(own, sizes), sizes

    def _gradients(self, objective: Objective, batches: Batches) -> Sequence[torch.Tensor]:
        """The loss's gradient by the log-probabilities of each micro-batch, from all of them together."""
        logprobs_K, sizes = self._scored(batches)
        everything = [part for parts in batches for part in parts]
        return torch.split(objective.gradient(logprobs_K, everything), sizes)

    def _gradient_norm(self) -> torch.Tensor:
        """Global norm of all gradients."""
        return self._optimizer.gradient_norm()

    def _check(self, forest: TokenForest, spec: LossSpec, *, loss: float) -> None:
        """Discards the gradients and keeps the batch if a number is not finite."""
        norm = self._gradient_norm()
        if math.isfinite(loss) and torch.isfinite(norm):
            return
        self._optimizer.clear()
        path = self._directory / f"rejected-batch-{self._sampler.version}.json"
        if self._ranks.leads:
            keep_batch(forest, path)
        raise NumericalError(
            f"loss {spec.name!r} is {loss!r} with gradient norm {norm.item()!r} at version {self._sampler.version}; "
            f"the gradients were discarded and the batch is in {str(path)!r}: lower the learning rate, or look for "
            "extreme advantages and log-probabilities in it"
        )


def _kind(weights: Mapping[str, torch.Tensor]) -> str:
    kind = "adapters" if any(".lora_A." in name for name in weights) else "whole weights"
    return f"{kind} in {len(weights)} tensors"
